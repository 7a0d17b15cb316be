"""The options of scripts/gpu-check; read before anything is built, by the machine's own Python."""

from __future__ import annotations

import argparse
from pathlib import Path

SIZES = (1.0, 8.0, 32.0)
QUICK_SIZES = (1.0, 8.0)
LEAST = 0.001
QUICK_SECONDS = 200.0
"""So that all is over in 4 minutes: the last round may take longer than was thought."""
WORKERS = ("driver", "torch", "model")
FOLDER = Path("/var/tmp" if Path("/var/tmp").is_dir() else "/tmp")


def parse(description: str | None, arguments: list[str]) -> argparse.Namespace:
    """What was given; ends the program with status 2 where that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="gpu-check",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, help="write the result there, as JSON")
    parser.add_argument(
        "--quick", action="store_true", help="at most 4 minutes: 1 and 8 GiB, what fits in time"
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        help="GiB of device memory, by default 1,8,32; what has no room is left out, and said",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=WORKERS,
        help="only this kind of worker; may be given several times",
    )
    parser.add_argument(
        "--repeat", type=_count, default=3, help="rounds of the smallest size (default: 3)"
    )
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="begin nothing that would end later"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        help=f"for artifacts, on a disk (default: {FOLDER}); in memory: /dev/shm",
    )
    parser.add_argument(
        "--python",
        default="python3",
        help="the machine's Python that has torch (default: python3 of PATH)",
    )
    given = parser.parse_args(arguments)
    given.sizes = given.sizes or list(QUICK_SIZES if given.quick else SIZES)
    given.budget = given.budget or (QUICK_SECONDS if given.quick else float("inf"))
    given.only = given.only or list(WORKERS)
    return given


def _sizes(text: str) -> list[float]:
    try:
        sizes = sorted(float(word) for word in text.split(","))
    except ValueError:
        sizes = [0.0]
    if sizes[0] < LEAST:
        raise argparse.ArgumentTypeError(f"{text}: expected GiB from {LEAST} up, such as 1,8,32")
    return sizes


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of rounds, 1 or more")
    return int(text)
