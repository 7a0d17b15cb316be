#!/usr/bin/env python3
"""Cleans up before an uninstallation."""

from chrek.hooks import pre_delete

if __name__ == "__main__":
    pre_delete.main()
