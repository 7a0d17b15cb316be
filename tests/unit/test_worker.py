"""The module that workers import: ready, restored, hooks, and what it renews by itself."""

import ast
import asyncio
import gc
import json
import logging
import os
import pathlib
import random
import subprocess
import sys
import threading
import types
import uuid

import pytest

from chrek import worker

TOLD = {
    "version": 1,
    "cloneId": "c-1",
    "seed": "ab" * 32,
    "capturedAt": "2026-11-25T00:00:00Z",
    "restoredAt": "2026-11-25T01:00:00Z",
    "identityHash": "0123456789abcdef",
    "artifact": "u-1",
    "pod": {"namespace": "ns", "name": "pod", "uid": "uid"},
    "hostname": "pod",
    "addresses": ["10.0.0.2"],
    "env": {},
}


class Process:
    """The module's state of a process of its own, and the agent's side of it."""

    def __init__(self, folder):
        self.path = folder / "restore-context.json"

    def restore(self, **changed):
        environment = dict(os.environ)
        environment.update(changed.pop("environment", {}))
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps({**TOLD, "env": environment, **changed}))
        temporary.replace(self.path)


@pytest.fixture
def process(tmp_path, monkeypatch):
    made = Process(tmp_path)
    monkeypatch.setattr(worker, "CONTEXT_FILE", os.fspath(made.path))
    monkeypatch.setattr(worker, "_known", None)
    monkeypatch.setattr(worker, "_hooks", [])
    monkeypatch.setattr(worker, "_before", [])
    monkeypatch.setattr(worker, "_restored", threading.Event())
    monkeypatch.setattr(worker, "_watching", [os.getpid()])
    monkeypatch.setattr(worker, "_started_with", dict(os.environ))
    kept = {n: getattr(uuid, n) for n in ("_node", "_last_timestamp", "_generate_time_safe")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())
        yield made
    for name, value in kept.items():
        setattr(uuid, name, value)


def test_a_process_that_was_never_restored(process):
    assert not worker.look()
    assert worker.context() is None
    assert not worker.wait_until_restored(0.1)


def test_hooks_run_once_for_each_restore_in_their_order(process):
    calls = []
    worker.on_restored(lambda now: calls.append(("first", now.clone_id)))

    @worker.on_restored
    def second(now):
        calls.append(("second", now.clone_id))

    process.restore()
    assert worker.look()
    assert not worker.look()
    process.restore(cloneId="c-2")
    assert worker.look()
    assert calls == [("first", "c-1"), ("second", "c-1"), ("first", "c-2"), ("second", "c-2")]
    assert worker.context().pod["name"] == "pod"
    assert worker.context().seed == bytes.fromhex("ab" * 32)


def test_a_hook_that_fails_stops_nobody(process, caplog):
    calls = []

    @worker.on_restored
    def broken(_):
        raise RuntimeError("no")

    worker.on_restored(lambda _: calls.append(1))
    process.restore()
    assert worker.look()
    assert calls == [1]
    assert "'broken' failed" in caplog.text


def test_variables_are_the_new_pods_and_the_programs_own_stay(process, monkeypatch):
    os.environ.update(OLD="old", POD="before", OWN="program", CHANGED="by program")
    started = {**os.environ, "CHANGED": "start", "POD": "before"}
    started.pop("OWN")
    monkeypatch.setattr(worker, "_started_with", started)
    seen = []
    worker.on_restored(lambda now: seen.append(os.environ["POD"]))
    told = {k: v for k, v in started.items() if k != "OLD"} | {"POD": "after", "NEW": "new"}
    process.path.write_text(json.dumps({**TOLD, "env": told}))
    worker.look()
    assert seen == ["after"], "hooks find the new ones"
    assert "OLD" not in os.environ
    assert os.environ["NEW"] == "new"
    assert os.environ["OWN"] == "program"
    assert os.environ["CHANGED"] == "by program"


def test_random_numbers_are_new(process, monkeypatch):
    seeds = {}
    numpy = types.SimpleNamespace(
        random=types.SimpleNamespace(seed=lambda n: seeds.update(numpy=n))
    )
    torch = types.SimpleNamespace(manual_seed=lambda n: seeds.update(torch=n))
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    monkeypatch.setitem(sys.modules, "torch", torch)
    random.seed(1)
    expected = random.random()
    random.seed(1)
    process.restore()
    worker.look()
    assert random.random() != expected
    assert seeds["numpy"] < 2**32
    assert seeds["torch"] < 2**63


def test_clones_draw_other_identifiers(process):
    before = uuid.uuid1().node
    process.restore()
    worker.look()
    assert uuid.uuid1().node != before
    assert uuid.uuid1() != uuid.uuid1()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"version": 2}', json.dumps({**TOLD, "version": 99})]
)
def test_a_file_that_is_not_understood_is_none(process, text):
    process.path.write_text(text)
    assert not worker.look()


def test_ready_writes_the_file_of_checkpoint_jobs(process, tmp_path):
    path = tmp_path / "ready"
    os.environ["DYN_READY_FOR_CHECKPOINT_FILE"] = os.fspath(path)
    worker.ready()
    assert path.exists()


@pytest.fixture
def serving(process):
    """No checkpoint job."""
    for name in worker.READY_VARIABLES:
        os.environ.pop(name, None)


@pytest.fixture
def ready_file(process, tmp_path):
    os.environ["DYN_READY_FOR_CHECKPOINT_FILE"] = os.fspath(tmp_path / "ready")
    return tmp_path / "ready"


class Cuda:
    """torch.cuda of two GPUs, where tensors of `alive` are in use and the rest is cached."""

    def __init__(self, *, initialized=True):
        self.initialized = initialized
        self.alive, self.cached, self.calls = {0: 10, 1: 20}, {0: 300, 1: 4000}, []

    def is_initialized(self):
        return self.initialized

    def device_count(self):
        return 2

    def memory_reserved(self, number):
        return self.alive[number] + self.cached[number]

    def empty_cache(self):
        self.calls.append("empty_cache")
        self.cached = dict.fromkeys(self.cached, 0)


@pytest.fixture
def cuda(monkeypatch):
    made = Cuda()
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=made))
    return made


def test_a_worker_that_serves_waits_for_nothing(serving):
    assert worker.checkpoint() is None


def test_a_worker_that_serves_frees_nothing(serving, cuda):
    calls = []
    worker.before_checkpoint(lambda: calls.append(1))
    worker.ready()
    assert worker.checkpoint() is None
    assert calls == cuda.calls == []


def test_hooks_run_before_the_file_in_their_order(ready_file, caplog):
    calls = []

    @worker.before_checkpoint
    def first():
        calls.append(("first", ready_file.exists()))
        raise RuntimeError("no")

    worker.before_checkpoint(lambda: calls.append(("second", ready_file.exists())))
    worker.ready()
    assert calls == [("first", False), ("second", False)]
    assert ready_file.exists()
    assert "'first' failed" in caplog.text
    assert first.__name__ == "first", "a decorator gives the function back"


def test_what_torch_caches_is_freed_when_the_hooks_are_done(ready_file, cuda, caplog):
    class Held:
        """Its memory is cached once a collection has found that nobody has it any more."""

        def __del__(self):
            cuda.alive[0], cuda.cached[0] = 0, cuda.cached[0] + 10

    @worker.before_checkpoint
    def drop():
        held = Held()
        held.itself = held
        cuda.calls.append("hook")

    gc.disable()
    try:
        with caplog.at_level(logging.INFO):
            worker.ready()
    finally:
        gc.enable()
    assert cuda.calls == ["hook", "empty_cache"]
    assert "freed 4310 bytes of GPU memory" in caplog.text
    assert ready_file.exists()


@pytest.mark.parametrize(
    "torch",
    [
        None,
        types.SimpleNamespace(),
        types.SimpleNamespace(cuda=Cuda(initialized=False)),
    ],
    ids=["not loaded", "while it is loaded", "without a GPU"],
)
def test_a_process_without_cuda_is_not_made_to_use_it(ready_file, monkeypatch, torch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    worker.ready()
    assert ready_file.exists()
    assert torch is None or not hasattr(torch, "cuda") or torch.cuda.calls == []


def test_a_cache_that_cannot_be_freed_keeps_nobody(ready_file, cuda, monkeypatch, caplog):
    def empty_cache():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(cuda, "empty_cache", empty_cache)
    worker.ready()
    assert ready_file.exists()
    assert "illegal memory access" in caplog.text


def test_its_syntax_is_that_of_python_3_9():
    ast.parse(pathlib.Path(worker.__file__).read_text(), feature_version=(3, 9))


def test_checkpoint_returns_in_the_restored_process(process, tmp_path):
    os.environ["DYNAMO_CHECKPOINT_SIGNAL_FILE"] = os.fspath(tmp_path / "ready")
    found = []
    thread = threading.Thread(target=lambda: found.append(worker.checkpoint()))
    thread.start()
    while not (tmp_path / "ready").exists():
        pass
    process.restore()
    thread.join(10)
    assert found[0].clone_id == "c-1"


async def test_an_event_loop_goes_on_while_a_thread_waits(process, tmp_path):
    """As docs/engines.md has it."""
    os.environ["DYN_READY_FOR_CHECKPOINT_FILE"] = os.fspath(tmp_path / "ready")
    waiting = asyncio.create_task(asyncio.to_thread(worker.checkpoint))
    async with asyncio.timeout(10):
        while not (tmp_path / "ready").exists():
            await asyncio.sleep(0.01)
        assert not waiting.done()
        process.restore(environment={"ENDPOINT": "there"})
        context = await waiting
    assert context.environment["ENDPOINT"] == "there"


def test_it_needs_nothing_but_the_standard_library(tmp_path):
    """Copied to another place under the name that the chrek volume has it by."""
    copy = tmp_path / "chrek_worker.py"
    copy.write_bytes(pathlib.Path(worker.__file__).read_bytes())
    code = f"""
import sys
sys.path.insert(0, {os.fspath(tmp_path)!r})
import chrek_worker
print([name for name in sys.modules if name.startswith("chrek")])
"""
    argv = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['chrek_worker']"


def test_the_watching_thread_finds_a_restore(tmp_path):
    copy = tmp_path / "worker.py"
    copy.write_bytes(pathlib.Path(worker.__file__).read_bytes())
    code = f"""
import sys
sys.path.insert(0, {os.fspath(tmp_path)!r})
import worker
worker.CONTEXT_FILE = {os.fspath(tmp_path / "restore-context.json")!r}
worker.on_restored(lambda now: print("hook", now.clone_id, flush=True))
worker.ready()
print("ready", flush=True)
sys.stdin.read()
"""
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout.readline() == "ready\n"
        Process(tmp_path).restore()
        assert made.stdout.readline() == "hook c-1\n"
        made.stdin.close()
