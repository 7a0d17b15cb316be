"""Two at once, on one node or on two: neither does harm to what the other one makes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import threading

import pytest

from chrek import errors, names
from store import places, samples
from store.checks import CORRUPT, MISSING, YOUNG, assert_emptied, assert_missing, delete
from store.samples import HASH, OTHER, VARIANT

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]


def test_threads_that_commit_to_one_hash(place: places.Place) -> None:
    def write(number: int) -> samples.Sample:
        return samples.commit(place.store("ab"[number % 2]), samples.tiny(number))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(write, range(6)))
    for sample in made:
        samples.check(place.store("c"), sample)
    assert_emptied(place)


def test_processes_that_commit_to_one_hash(place: places.Place) -> None:
    def start(number: int) -> subprocess.Popen[str]:
        wanted = {"operation": "commit", "path": [HASH, VARIANT], "seed": number, "kill_at": 0}
        argv = [sys.executable, "-m", "store.stepping"]
        argv.append(json.dumps({**wanted, "recipe": place.recipe("ab"[number % 2])}))
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env)

    for number, process in enumerate([start(number) for number in range(3)]):
        output, _ = process.communicate(timeout=50)
        assert process.returncode == 0
        uuid, digest = json.loads(output.splitlines()[0].partition(" ")[2])[2:]
        described = place.store("c").open(HASH, VARIANT, uuid, digest).manifest
        files = samples.tiny(number)
        sample = samples.Sample(HASH, VARIANT, uuid, digest, described, files)
        samples.check(place.store("c"), sample)


def test_commits_while_another_hash_is_deleted(place: places.Place) -> None:
    """Both make and drop the same directories, and may share contents."""
    stop = threading.Event()

    def delete_all() -> None:
        while not stop.is_set():
            samples.commit(place.store("b"), samples.tiny(), OTHER)
            delete(place.store("b"), OTHER)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(delete_all)
        made = [samples.commit(place.store("a"), samples.tiny()) for _ in range(8)]
        stop.set()
        deleting.result()
    for sample in made:
        samples.check(place.store("c"), sample)


def test_stages_while_empty_directories_go(place: places.Place) -> None:
    """A deletion drops what is empty, also what a capture is about to make something in.

    The deletions themselves may stumble over each other; the capture may not.
    """
    stop = threading.Event()

    def drop() -> None:
        while not stop.is_set():
            stumble("a", HASH, "bbbb")

    def stumble(node: str, *path: str) -> None:
        with contextlib.suppress(errors.StoreError):
            delete(place.store(node), *path, stage_seconds=-YOUNG)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        dropping = pool.submit(drop)
        try:
            for _ in range(150):
                stage = place.store("a").stage(HASH, VARIANT)
                assert stage.images.is_dir()
                stumble("a", HASH, VARIANT)
        finally:
            stop.set()
        dropping.result()
    assert_emptied(place)


@pytest.mark.parametrize("node", ["a", "b"])
def test_a_reader_while_it_is_deleted(place: places.Place, node: str) -> None:
    """It gets the bytes that were captured, or is told that there are none."""
    sample = samples.commit(place.store("a"), samples.few())
    started, outcomes = threading.Event(), []

    def read() -> None:
        for _ in range(12):
            try:
                samples.check(place.store(node), sample)
                outcomes.append("read")
            except (errors.ArtifactError, errors.StoreError) as err:
                outcomes.append(err.reason)
            started.set()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        started.wait()
        # A reader of the same node may hold a directory for a moment: it is deleted all the same.
        with contextlib.suppress(errors.StoreError):
            delete(place.store("a"))
        reading.result()
    assert outcomes[0] == "read"
    assert {*outcomes} <= {"read", MISSING, CORRUPT, names.Reason.STORE_FAILED}
    place.settle()
    delete(place.store("a"))
    assert_missing(place.store("c"), sample)
    assert_emptied(place)


def test_a_reader_while_a_newer_one_is_committed(place: places.Place) -> None:
    sample = samples.commit(place.store("a"), samples.few())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writing = pool.submit(samples.commit, place.store("a"), samples.few(1))
        for _ in range(3):
            samples.check(place.store("b"), sample)
        samples.check(place.store("b"), writing.result())


def test_two_deletions_at_once(place: places.Place) -> None:
    made = [samples.commit(place.store("a"), samples.tiny(n)) for n in range(6)]

    def work(node: str) -> None:
        # One may stumble over what the other has just removed; nothing else may happen.
        with contextlib.suppress(errors.StoreError):
            delete(place.store(node))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ["a", "b"]))
    place.settle()
    delete(place.store("a"))
    for sample in made:
        assert_missing(place.store("c"), sample)
    assert_emptied(place)
