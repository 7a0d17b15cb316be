#!/usr/bin/env python3
"""Cleans up nodes after an uninstallation."""

from chrek.hooks import post_delete

if __name__ == "__main__":
    post_delete.main()
