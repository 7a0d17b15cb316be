#!/usr/bin/env python3
"""What helm test runs: capture, restore, compare."""

from chrek.hooks import round_trip

if __name__ == "__main__":
    round_trip.main()
