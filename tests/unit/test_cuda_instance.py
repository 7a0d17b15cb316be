"""One helper process: who waits is always told, nothing is left of it, and its words are kept."""

import logging
import os
import pathlib
import signal
import sys
import threading
import time
from concurrent import futures

import pytest

from chrek import errors, names
from chrek.cuda import instance, words
from fakes import cuda_worker


@pytest.fixture(autouse=True)
def nobody_elses_dead():
    cuda_worker.reap()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = cuda_worker.Machine(tmp_path / "node")
    monkeypatch.setenv("CHREK_STANDIN_NODE", str(machine.node.path))
    return machine


@pytest.fixture
def helper(machine):
    helper = instance.Instance(machine.libraries)
    yield helper
    machine.node.fail()
    helper.close()
    # One that was given up before ends by itself.
    until(lambda: cuda_worker.helpers(os.getpid()) == [])


def pid_of_the_helper():
    [pid] = cuda_worker.helpers(os.getpid())
    return pid


def ask_state(helper, pid, timeout_seconds=20.0):
    return helper.ask(
        f"tell the state of process {pid}",
        lambda number: words.GetState(id=number, pid=pid),
        words.StateAnswer,
        timeout_seconds,
    ).state


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_answer(helper):
    helper.ready(20)
    assert ask_state(helper, os.getpid()) == words.State.RUNNING
    assert helper.usable


def test_many_wait_at_once(machine, helper):
    """What hangs for one hangs for no other, and each gets its own answer."""
    helper.ready(20)
    with machine.worker() as one, machine.worker(device=1) as two:
        machine.node.fail(f"hang state 60 pid={one.pid}")
        with futures.ThreadPoolExecutor(17) as pool:
            slow = pool.submit(ask_state, helper, one.pid)
            quick = [pool.submit(ask_state, helper, two.pid) for _ in range(64)]
            assert {future.result() for future in quick} == {words.State.RUNNING}
            assert not slow.done()
            machine.node.fail()
            assert slow.result() == words.State.RUNNING


def test_a_failure_is_raised_as_it_was(machine, helper):
    helper.ready(20)
    machine.node.fail("state 2 1")
    with pytest.raises(errors.GpuError, match="failed with CUDA_ERROR_OUT_OF_MEMORY") as caught:
        ask_state(helper, os.getpid())
    assert type(caught.value) is errors.GpuError
    assert caught.value.code == "CUDA_ERROR_OUT_OF_MEMORY"
    assert caught.value.reason == names.Reason.GPU_UNAVAILABLE
    assert caught.value.retryable
    assert helper.usable


def test_what_comes_again_is_not_worth_another_try(machine, helper):
    machine.node.fail("state 801 1")
    with pytest.raises(errors.GpuError) as caught:
        ask_state(helper, os.getpid())
    assert caught.value.reason == names.Reason.GPU_STATE_UNSUPPORTED
    assert not caught.value.retryable


def test_an_answer_of_another_kind(helper):
    with pytest.raises(errors.GpuError, match="answered Done when asked to sing") as caught:
        helper.ask("sing", lambda number: words.Start(id=number), words.StateAnswer, 20)
    assert caught.value.reason == names.Reason.INTERNAL_ERROR


def test_all_who_wait_are_told_that_it_was_killed(machine, helper):
    helper.ready(20)
    machine.node.fail("hang state 60")
    with futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask_state, helper, os.getpid()) for _ in range(8)]
        until(lambda: len(helper._waiting) == 8)
        begin = time.monotonic()
        os.kill(pid_of_the_helper(), signal.SIGKILL)
        for future in waiting:
            error = future.exception(10)
            assert isinstance(error, errors.GpuError)
            assert not error.unasked
            assert error.message == "the GPU helper was killed by SIGKILL"
            assert error.reason == names.Reason.GPU_UNAVAILABLE
    assert time.monotonic() - begin < 20
    assert not helper.usable
    with pytest.raises(errors.GpuError, match="was killed by SIGKILL") as caught:
        ask_state(helper, os.getpid())
    assert caught.value.unasked
    until(lambda: cuda_worker.helpers(os.getpid()) == [])


def test_an_end_that_nobody_waits_for_is_seen(helper):
    helper.ready(20)
    os.kill(pid_of_the_helper(), signal.SIGTERM)
    until(lambda: not helper.usable)
    until(lambda: cuda_worker.helpers(os.getpid()) == [])


def test_a_crash_of_the_driver_is_logged(machine, helper, caplog):
    """Its last words say where it was."""
    helper.ready(20)
    machine.node.fail("hang state 60")
    with futures.ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING):
        waiting = pool.submit(ask_state, helper, os.getpid())
        until(lambda: helper._waiting)
        time.sleep(0.1)
        os.kill(pid_of_the_helper(), signal.SIGSEGV)
        error = waiting.exception(10)
    assert error.message.startswith("the GPU helper was killed by SIGSEGV: ")
    said = [record.text for record in caplog.records if record.message == "gpu helper says"]
    assert "Fatal Python error: Segmentation fault" in said
    assert any("in state" in line for line in said)
    assert [record.how for record in caplog.records if record.message == "gpu helper ended"] == [
        "was killed by SIGSEGV"
    ]


def test_a_call_that_hangs_is_left_behind(machine, helper):
    helper.ready(20)
    with machine.worker() as worker, futures.ThreadPoolExecutor(1) as pool:
        machine.node.fail(f"hang state 60 pid={os.getpid()}", f"hang lock 60 pid={worker.pid}")
        other = pool.submit(
            helper.ask,
            "lock",
            lambda number: words.Lock(id=number, pid=worker.pid, timeout_seconds=60),
            words.Done,
            60,
        )
        until(lambda: helper._waiting)
        begin = time.monotonic()
        with pytest.raises(errors.GpuError) as caught:
            ask_state(helper, os.getpid(), 0.3)
        assert 0.3 <= time.monotonic() - begin < 20
        assert caught.value.message == (
            f"the GPU helper did not tell the state of process {os.getpid()} within 0.3 seconds"
        )
        assert caught.value.reason == names.Reason.GPU_UNAVAILABLE
        assert not helper.usable
        with pytest.raises(errors.GpuError, match="is being replaced") as caught:
            ask_state(helper, worker.pid)
        # What others wait for in it goes on, and it ends when that has.
        assert pid_of_the_helper()
        assert not other.done()
        machine.node.fail(f"hang state 60 pid={os.getpid()}")
        assert other.result(10)
        until(lambda: cuda_worker.helpers(os.getpid()) == [])


def test_a_helper_that_is_stopped_is_killed(machine, helper, monkeypatch):
    """It does not see that it shall end."""
    monkeypatch.setattr(instance, "END_SECONDS", 0.3)
    helper.ready(20)
    pid = pid_of_the_helper()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(errors.GpuError, match="did not tell the state"):
        ask_state(helper, os.getpid(), 0.1)
    until(lambda: cuda_worker.helpers(os.getpid()) == [])


def test_an_initialisation_that_hangs(machine):
    machine.node.fail("hang init 60")
    helper = instance.Instance(machine.libraries)
    with pytest.raises(errors.GpuError, match=r"did not initialise the driver within 0\.2 seconds"):
        helper.ready(0.2)
    assert not helper.usable
    until(lambda: cuda_worker.helpers(os.getpid()) == [])


def test_a_failed_initialisation_ends_it(machine):
    """Another process may have more luck; this one's libraries do not try again."""
    machine.node.fail("init 100 1")
    helper = instance.Instance(machine.libraries)
    with pytest.raises(errors.GpuError, match="CUDA_ERROR_NO_DEVICE"):
        helper.ready(20)
    assert not helper.usable
    until(lambda: cuda_worker.helpers(os.getpid()) == [])


def test_close_tells_who_waits(machine):
    helper = instance.Instance(machine.libraries)
    helper.ready(20)
    machine.node.fail("hang state 60")
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask_state, helper, os.getpid())
        until(lambda: helper._waiting)
        helper.close()
        assert "the GPU helper has been ended" in str(waiting.exception(1))
    assert cuda_worker.helpers(os.getpid()) == []
    helper.close()
    with pytest.raises(errors.GpuError, match="has been ended") as caught:
        ask_state(helper, os.getpid())
    assert caught.value.unasked


def test_a_program_that_cannot_be_started(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    helper = instance.Instance(machine.libraries)
    with pytest.raises(errors.GpuError, match=r"could not be started: .*absent: not found"):
        helper.ready(20)
    assert not helper.usable


def test_there_is_no_thread_for_it(machine, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(errors.GpuError, match="could not be started: can't start new thread"):
            instance.Instance(machine.libraries)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_no_answer_ends_it(machine, monkeypatch, tmp_path, caplog):
    path = tmp_path / "python"
    path.write_text(
        f"#!{sys.executable}\nimport socket, sys\n"
        "channel = socket.socket(fileno=int(sys.argv[-1]))\n"
        "channel.recv(1000)\nchannel.send(b'\\xc1')\nchannel.recv(1000)\n"
    )
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    helper = instance.Instance(machine.libraries)
    with pytest.raises(errors.GpuError, match="the GPU helper was lost: DecodeError"):
        helper.ready(20)
    assert not helper.usable
    until(lambda: cuda_worker.helpers(os.getpid()) == [])


def test_nothing_is_left_open(machine):
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        helper = instance.Instance(machine.libraries)
        helper.ready(20)
        helper.close()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_its_environment(machine, monkeypatch):
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("KEPT", "yes")
    made = instance.environment(pathlib.Path("/libraries"))
    assert made == {
        **{
            name: value
            for name, value in os.environ.items()
            if name not in ("LD_PRELOAD", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
        },
        "LD_LIBRARY_PATH": "/libraries",
    }
    assert made["KEPT"] == "yes"


def test_the_agent_loads_no_library_of_the_driver(helper):
    helper.ready(20)
    helper.ask("tell", lambda number: words.DescribeUsage(id=number), words.UsageAnswer, 20)
    own = pathlib.Path("/proc/self/maps").read_text()
    assert "libcuda.so" not in own
    assert "libnvidia-ml.so" not in own
    theirs = pathlib.Path(f"/proc/{pid_of_the_helper()}/maps").read_text()
    assert "libcuda.so.1" in theirs
    assert "libnvidia-ml.so.1" in theirs
    for library in ("numpy", "cuda.core"):
        assert library.replace(".", "/") not in theirs
