#!/usr/bin/env python3
"""Waits for the release after an installation or upgrade."""

from chrek.hooks import post_install

if __name__ == "__main__":
    post_install.main()
