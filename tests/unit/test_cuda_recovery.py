"""Which processes use CUDA, whether they live, and what an interrupt may not do."""

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures

import pytest

from chrek import errors, log, procfs
from chrek.cuda import recovery, words
from fakes import cuda_helper

LOG = log.get("test")


@pytest.fixture(scope="module")
def children():
    made = cuda_helper.Children()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(recovery, "UNSETTLED_SECONDS", 1.0)
    monkeypatch.setattr(recovery, "PAUSE_SECONDS", (0.001, 0.01))
    monkeypatch.setattr(recovery, "ENDING_SECONDS", 0.01)


def test_a_process_and_another_one_with_its_pid(children):
    (pid,) = children.take(1)
    found = recovery.look_up(pid, 5)
    assert (found.pid, found.name, found.bytes) == (pid, "sleep", 5)
    assert found.lives()
    assert not dataclasses.replace(found, started=found.started + 1).lives()
    cuda_helper.kill(pid)
    assert not found.lives(), "nobody has waited for it, but no thread is left"


def test_a_process_whose_first_thread_ended_lives():
    code = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print(flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as made:
        made.stdout.readline()
        until = time.monotonic() + 10
        while procfs.status(made.pid).state != "Z":
            assert time.monotonic() < until
        assert recovery.look_up(made.pid, 0).lives()
        made.kill()


def test_a_process_that_is_gone():
    with subprocess.Popen(["true"]) as made:
        pass
    assert recovery.look_up(made.pid, 0) is None
    assert not recovery.Process(made.pid, 1, "true", 0, 0).lives()


def test_those_that_use_cuda_in_their_order_and_what_they_use(children):
    pids = children.take(3)
    helper = cuda_helper.Helper([pids[2], pids[0]])
    usage = [
        words.Usage(uuid=uuid, freeBytes=0, persistence=False, processes=of)
        for uuid, of in (("GPU-1", {pids[0]: 3, pids[1]: 100}), ("GPU-2", {pids[0]: 4}))
    ]
    found = recovery.find(helper, [*pids, 1 << 22], usage)
    assert [(process.pid, process.bytes) for process in found] == [(pids[0], 7), (pids[2], 0)]


@pytest.mark.parametrize("state", [cuda_helper.LOCKED, cuda_helper.CHECKPOINTED])
def test_brought_back_from_any_state(children, state):
    pids = children.take(2)
    helper = cuda_helper.Helper(pids)
    helper.states[pids[0]] = state
    seconds = {}
    assert recovery.bring_back(helper, recovery.find(helper, pids, ()), {}, LOG, seconds) == {}
    assert helper.living() == dict.fromkeys(pids, cuda_helper.RUNNING)
    assert list(seconds) == ["gpu_restore", "gpu_unlock"]


def test_no_unlock_before_the_last_restore(children):
    pids = children.take(3)
    helper = cuda_helper.Helper(pids)
    helper.states = dict.fromkeys(pids, cuda_helper.CHECKPOINTED)
    helper.failures = [cuda_helper.Failure("restore", pids[1], "UNKNOWN", times=3)]
    assert recovery.bring_back(helper, recovery.find(helper, pids, ()), {}, LOG) == {}
    steps = [name for name, _ in helper.calls if name in ("restore", "unlock")]
    assert steps == ["restore"] * 6 + ["unlock"] * 3


def test_a_lock_that_takes_effect_late_is_waited_for(children):
    (pid,) = children.take(1)
    helper = cuda_helper.Helper([pid])
    (process,) = recovery.find(helper, [pid], ())
    helper.failures = [cuda_helper.Failure("lock", pid, cuda_helper.LATER)]
    with pytest.raises(errors.GpuError):
        helper.lock(pid, 1)
    assert helper.state(pid) == cuda_helper.RUNNING
    assert recovery.bring_back(helper, [process], {process: time.monotonic() + 0.3}, LOG) == {}
    assert helper.living() == {pid: cuda_helper.RUNNING}
    assert ("unlock", pid) in helper.calls


def test_a_helper_that_starts_again_gets_more_time(children, monkeypatch):
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0)
    (pid,) = children.take(1)
    helper = cuda_helper.Helper([pid])
    helper.states[pid] = cuda_helper.CHECKPOINTED
    processes = recovery.find(helper, [pid], ())
    helper.failures = [cuda_helper.Failure("restore", pid, "UNKNOWN")]
    assert recovery.bring_back(helper, processes, {}, LOG)
    helper.failures = [cuda_helper.Failure("restore", pid, cuda_helper.GONE, times=3)]
    assert not recovery.bring_back(helper, processes, {}, LOG)
    assert helper.living() == {pid: cuda_helper.RUNNING}


def test_a_process_that_failed_is_not_tried_for_long(children, monkeypatch):
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 100)
    (pid,) = children.take(1)
    helper = cuda_helper.Helper([pid])
    helper.states[pid] = cuda_helper.FAILED
    (failed,) = recovery.bring_back(helper, recovery.find(helper, [pid], ()), {}, LOG).values()
    assert "its CUDA is failed" in str(failed)


def test_of_many_what_failed():
    def work(number):
        if number % 2:
            raise ValueError(number)

    failed = recovery.each(work, range(100))
    assert sorted(failed) == list(range(1, 100, 2))
    assert recovery.each(work, []) == {}


def interrupt(times=1):
    for _ in range(times):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.01)


def test_an_interrupt_waits_for_the_end():
    done = []

    def work():
        with recovery.uninterrupted():
            interrupt(times=3)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_other_threads_and_programs_that_take_no_interrupt():
    def work():
        with recovery.uninterrupted():
            return signal.getsignal(signal.SIGINT)

    with futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() is signal.default_int_handler
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert work() is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
