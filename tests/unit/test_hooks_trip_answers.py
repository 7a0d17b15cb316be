import dataclasses
import threading

import pytest

from chrek import errors
from chrek.hooks import counter, trip_answers

MEMORY = trip_answers.Memory(nonce="a" * 32, count=2, ballast="d" * 64, size=8 << 20)
FILES = trip_answers.Files({"/tmp/x": "1" * 64, "/dev/shm/y": "2" * 64}, {})


@pytest.fixture
def worker(tmp_path, monkeypatch):
    with counter.Server(0, counter.State([str(tmp_path)]), host="127.0.0.1") as server:
        monkeypatch.setattr(counter, "PORT", server.server_port)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_worker_tells_its_memory_and_files(worker):
    first, second = (trip_answers.memory("127.0.0.1") for _ in range(2))
    assert first == dataclasses.replace(second, count=1)
    assert second.nonce == worker.state.nonce
    assert second.size == counter.BALLAST_BYTES
    found = trip_answers.files("127.0.0.1")
    assert len(found.digests) == 2
    assert found.problems == {}


def test_a_worker_is_released(worker):
    trip_answers.release("127.0.0.1")
    assert worker.state.ready


def test_nobody_answers(monkeypatch):
    # Nothing listens on port 1.
    monkeypatch.setattr(counter, "PORT", 1)
    assert trip_answers.attempt(trip_answers.memory, "127.0.0.1") is None
    assert trip_answers.attempt(trip_answers.memory, "::1") is None
    with pytest.raises(errors.ChrekError, match=r"the worker at 127\.0\.0\.1 stopped answering"):
        trip_answers.release("127.0.0.1")


def test_the_same_memory_that_counted_on():
    trip_answers.compare_memory(MEMORY, dataclasses.replace(MEMORY, count=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nonce": "b" * 32}, "its nonce is bbbbbbbb, the captured one's was aaaaaaaa"),
        ({"count": 2}, "the counter went from 2 to 2"),
        ({"ballast": "e" * 64}, "8388608 bytes had the digest dddddddd, now it is eeeeeeee"),
        ({"size": 7}, "now it is dddddddd of 7"),
    ],
)
def test_other_memory(change, message):
    after = dataclasses.replace(MEMORY, **{"count": 3, **change})
    with pytest.raises(errors.ChrekError, match=message):
        trip_answers.compare_memory(MEMORY, after)


def test_the_same_files():
    trip_answers.check_written(FILES)
    trip_answers.compare_files(FILES, FILES)


@pytest.mark.parametrize(
    ("digests", "problems", "message"),
    [
        (
            {**FILES.digests, "/tmp/x": "3" * 64},
            {},
            "files changed: /tmp/x had the digest 11111111, now 33333333",
        ),
        (
            {"/tmp/x": "1" * 64},
            {"/dev/shm/y": "No such file"},
            "/dev/shm/y had the digest 22222222, now it cannot be read: No such file",
        ),
        ({}, {}, "/tmp/x had .* nobody knows of it; /dev/shm/y had"),
    ],
)
def test_other_files(digests, problems, message):
    with pytest.raises(errors.ChrekError, match=message):
        trip_answers.compare_files(FILES, trip_answers.Files(digests, problems))


def test_files_that_could_not_be_written():
    found = trip_answers.Files({}, {"/tmp/x": "Read-only file system: '/tmp/x'"})
    with pytest.raises(errors.ChrekError, match="could not write its files: Read-only") as caught:
        trip_answers.check_written(found)
    assert "let pods write into their root file system" in caught.value.hint


GPU = trip_answers.Gpu(uuid="GPU-0123456789", count=2, ballast="e" * 64, size=64 << 20)


def test_a_worker_tells_of_its_gpu(monkeypatch):
    said = {"uuid": GPU.uuid, "count": 2, "digest": GPU.ballast, "bytes": GPU.size}
    monkeypatch.setattr(trip_answers, "_request", lambda *asked: asked and said)
    assert trip_answers.gpu("127.0.0.1") == GPU
    said = {"problem": "cuInit: CUDA_ERROR_NO_DEVICE"}
    assert trip_answers.gpu("127.0.0.1") == trip_answers.Gpu(problem=said["problem"])


def test_the_same_gpu_memory_on_any_gpu():
    trip_answers.compare_gpu(GPU, dataclasses.replace(GPU, uuid="GPU-other", count=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ballast": "f" * 64}, "67108864 bytes had the digest eeeeeeee, now it is ffffffff"),
        ({"size": 7}, "now it is eeeeeeee of 7"),
        ({"count": 2}, "the counter on the GPU went from 2 to 2"),
        ({"problem": "CUDA_ERROR_X"}, "cannot use its GPU: CUDA_ERROR_X"),
    ],
)
def test_other_gpu_memory(change, message):
    after = dataclasses.replace(GPU, **{"count": 3, **change})
    with pytest.raises(errors.ChrekError, match=message):
        trip_answers.compare_gpu(GPU, after)


def test_notes_are_short():
    assert str(GPU) == "count 2, 64 MiB eeeeeeee on GPU-01234567"
    assert str(trip_answers.Gpu(problem="x")) == "x"
    assert str(MEMORY) == "nonce aaaaaaaa, count 2, 8 MiB dddddddd"
    assert str(FILES) == "2 in /tmp, /dev/shm"
