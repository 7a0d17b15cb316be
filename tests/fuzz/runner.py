"""Starts the fuzzing of targets, and says what was found."""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile

NAMES = ("manifest", "table", "places", "pagemap", "pack")
ROOT = pathlib.Path(__file__).resolve().parents[2]
MOST_BYTES = 4096
"""Of an input."""
MOST_MEMORY_MIB = 1024
"""Of the process: what takes more for such an input is a finding."""
MOST_SECONDS = 10
"""For one input, the same."""
MOST_SECONDS_OF_RUNS = 3600
START_SECONDS = 120
"""On a machine that is busy."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one target."""

    name: str
    runs: int
    """Inputs that were tried."""
    found: bytes | None
    """The input that was a finding; empty when the process failed by itself."""
    output: str

    def __str__(self) -> str:
        said = f"{self.name}: {self.runs} inputs"
        if self.found is None:
            return said
        text = base64.b64encode(self.found).decode()
        again = f"in tests: python -m fuzz {self.name} --input '{text}'"
        return f"{self.output[-4000:]}\n{said}, FOUND {text}\n{again}"


def fuzz(name: str, *, seconds: float = 0, runs: int = 0) -> Outcome:
    """Try inputs of a target for some time, or so many.

    The time is that of the inputs; a process takes a second to start.
    """
    limits = [f"-max_total_time={max(1, round(seconds))}"] if seconds else [f"-runs={runs}"]
    with tempfile.TemporaryDirectory(prefix="chrek-fuzz-") as folder:
        corpus = pathlib.Path(folder) / "corpus"
        corpus.mkdir()
        timeout = (seconds or MOST_SECONDS_OF_RUNS) + START_SECONDS
        return _run(name, pathlib.Path(folder), [str(corpus), *limits], timeout)


def replay(name: str, data: bytes) -> Outcome:
    """Try one input."""
    with tempfile.TemporaryDirectory(prefix="chrek-fuzz-") as folder:
        path = pathlib.Path(folder) / "input"
        path.write_bytes(data)
        outcome = _run(name, pathlib.Path(folder), [str(path)], START_SECONDS)
    return outcome if outcome.found is None else dataclasses.replace(outcome, found=data)


def _run(name: str, folder: pathlib.Path, arguments: list[str], timeout: float) -> Outcome:
    argv = [sys.executable, "-m", "fuzz.one", name, *arguments]
    argv += [f"-artifact_prefix={folder}/found-", "-print_final_stats=1"]
    argv += [f"-max_len={MOST_BYTES}", f"-rss_limit_mb={MOST_MEMORY_MIB}"]
    argv += [f"-timeout={MOST_SECONDS}"]
    path = [ROOT / "tests", ROOT / "src", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, path)))}
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        timeout=timeout,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    told = re.search(r"number_of_executed_units: *(\d+)", output)
    found = [path.read_bytes() for path in folder.glob("found-*")]
    if done.returncode and not found:
        found = [b""]
    return Outcome(name, int(told[1]) if told else 0, found[0] if found else None, output)
