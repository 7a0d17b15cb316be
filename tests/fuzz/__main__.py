"""Fuzz all targets, one after the other, each in a process of its own.

In tests:  python -m fuzz --seconds 60                  so long in total
           python -m fuzz --runs 1000000                so many inputs in total
           python -m fuzz table --input BASE64          once more what was found
"""

from __future__ import annotations

import argparse
import base64
import sys

from fuzz import runner


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="target", help=", ".join(runner.NAMES))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, help="instead of --seconds")
    parser.add_argument("--input", type=base64.b64decode, help="only this one")
    options = parser.parse_args()
    names = options.targets or runner.NAMES
    if options.input is not None:
        outcomes = [runner.replay(name, options.input) for name in names]
    elif options.runs:
        outcomes = [runner.fuzz(name, runs=-(-options.runs // len(names))) for name in names]
    else:
        outcomes = [runner.fuzz(name, seconds=options.seconds / len(names)) for name in names]
    for outcome in outcomes:
        print(outcome)
    return int(any(outcome.found is not None for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
