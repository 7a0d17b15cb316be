#!/usr/bin/env python3
"""Checks the cluster before an installation."""

from chrek.hooks import pre_install

if __name__ == "__main__":
    pre_install.main()
