#!/usr/bin/env python3
"""Checks the cluster before an upgrade and applies the CRDs."""

from chrek.hooks import pre_upgrade

if __name__ == "__main__":
    pre_upgrade.main()
