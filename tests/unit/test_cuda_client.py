"""The GPUs of a node through a helper process that comes and goes, on the stand-in."""

import os
import pathlib
import signal
import time
from concurrent import futures

import pytest

from chrek import errors, names
from chrek.cuda import client, instance, library, words
from fakes import cuda_worker

RUNNING, LOCKED, CHECKPOINTED, FAILED = words.State


@pytest.fixture(autouse=True)
def nobody_elses_dead():
    cuda_worker.reap()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = cuda_worker.Machine(tmp_path / "node")
    monkeypatch.setenv("CHREK_STANDIN_NODE", str(machine.node.path))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    return machine


@pytest.fixture
def helper(machine, tmp_path):
    """The stand-in's directory is the root directory of the node."""
    helper = client.Helper(scratch=tmp_path / "scratch", roots=["/"], host=machine.libraries)
    yield helper
    machine.node.fail()
    helper.close()
    # One that was given up before ends by itself.
    until(lambda: cuda_worker.helpers(os.getpid()) == [])


@pytest.fixture
def absent(tmp_path, monkeypatch):
    """No driver, whatever this machine has; `find` returns what a test says."""
    found = {"calls": 0, "libraries": None}

    def find(roots, host):
        found["calls"] += 1
        return found["libraries"]

    monkeypatch.setattr(library, "find", find)
    return found


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def suspend(helper, pid):
    helper.lock(pid, 10)
    helper.checkpoint(pid)


def go_on(helper, pid, mapping=None):
    helper.restore(pid, mapping)
    helper.unlock(pid)


def test_a_process_goes_and_comes_back(machine, helper):
    zero, one = machine.node.uuids
    with machine.worker() as worker:
        assert helper.restore_thread(worker.pid)
        assert helper.restore_thread(os.getpid()) is None
        assert helper.state(worker.pid) == RUNNING
        suspend(helper, worker.pid)
        assert helper.state(worker.pid) == CHECKPOINTED
        assert [usage.processes for usage in helper.usage()] == [{}, {}]
        helper.restore(worker.pid, {zero: one, one: zero})
        assert helper.state(worker.pid) == LOCKED
        helper.unlock(worker.pid)
        assert helper.state(worker.pid) == RUNNING
        assert [usage.processes for usage in helper.usage()] == [{}, {worker.pid: worker.size}]
        assert worker.intact()


def test_facts_of_the_node(machine, helper):
    node = helper.node()
    assert (node.driver, node.api) == ("580.65.06", 13000)
    assert [gpu.uuid for gpu in node.gpus] == machine.node.uuids
    assert [usage.uuid for usage in helper.usage()] == machine.node.uuids


def test_many_processes_at_once(machine, helper):
    workers = [machine.worker(device=n % 2, size=(n + 1) << 16) for n in range(8)]
    try:
        for worker in workers:
            worker.__enter__()
        with futures.ThreadPoolExecutor(8) as pool:
            for zero_or_one in range(2):
                list(pool.map(lambda worker: suspend(helper, worker.pid), workers))
                assert {helper.state(worker.pid) for worker in workers} == {CHECKPOINTED}
                assert machine.node.used(zero_or_one) == 0
                list(pool.map(lambda worker: go_on(helper, worker.pid), workers))
        assert all(worker.intact() for worker in workers)
    finally:
        for worker in workers:
            worker.kill()


def test_steps_of_several_processes_do_not_wait_for_each_other(machine, helper):
    """Each takes two seconds; all together take little more."""
    with machine.worker() as one, machine.worker(device=1) as two, machine.worker() as three:
        helper.start()
        machine.node.fail("hang checkpoint 2")
        pids = [one.pid, two.pid, three.pid]
        for pid in pids:
            helper.lock(pid, 10)
        begin = time.monotonic()
        with futures.ThreadPoolExecutor(3) as pool:
            list(pool.map(helper.checkpoint, pids))
        assert 2 <= time.monotonic() - begin < 5


def test_one_process_serves_all(helper):
    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: helper.state(os.getpid()), range(32)))
    assert len(cuda_worker.helpers(os.getpid())) == 1


# -- start


def test_nothing_is_started_before_it_is_needed(helper):
    assert helper.available()
    assert cuda_worker.helpers(os.getpid()) == []


def test_a_warm_start_spares_others_the_wait(machine, helper):
    machine.node.fail("hang init 60")
    with futures.ThreadPoolExecutor(2) as pool:
        starter = pool.submit(helper.start)
        # Facts do not wait for it, steps do.
        assert helper.node().gpus
        waiting = pool.submit(helper.state, os.getpid())
        until(lambda: len(helper._instance._waiting) == 2)
        assert not starter.done()
        machine.node.fail()
        starter.result()
        assert waiting.result() == RUNNING
    # Nothing of the driver's is initialised again.
    machine.node.fail("init 999")
    assert helper.state(os.getpid()) == RUNNING
    assert len(cuda_worker.helpers(os.getpid())) == 1


def test_a_call_waits_for_the_start_beyond_its_own_time(machine, helper):
    machine.node.fail("hang init 2")
    assert helper.state(os.getpid(), timeout_seconds=1.5) == RUNNING


def test_a_start_that_takes_too_long(machine, helper):
    machine.node.fail("hang init 60")
    with pytest.raises(errors.GpuError, match=r"did not initialise the driver within 0\.2 seconds"):
        helper.start(timeout_seconds=0.2)
    machine.node.fail()
    helper.start()


@pytest.mark.parametrize("number", [100, 304])
def test_a_driver_that_comes_to_life_later(machine, helper, number):
    machine.node.fail(f"init {number} 1")
    with pytest.raises(errors.GpuError, match="initialisation failed") as caught:
        helper.state(os.getpid())
    assert "nvidia-smi" in caught.value.hint
    assert machine.node.pending() == []
    assert helper.state(os.getpid()) == RUNNING


def test_an_old_failure_is_not_told(machine, helper):
    """The helper of a health check was started before the driver was ready."""
    machine.node.fail("init 100 1")
    helper.node()
    until(lambda: machine.node.pending() == [])
    time.sleep(0.1)
    assert helper.state(os.getpid()) == RUNNING


def test_a_driver_that_is_too_old(machine, helper):
    machine.node.api = 12070
    machine.node.write()
    with pytest.raises(errors.GpuError) as caught:
        helper.restore_thread(os.getpid())
    assert caught.value.reason == names.Reason.GPU_DRIVER_TOO_OLD
    assert "580" in caught.value.hint
    assert not caught.value.retryable
    assert helper.node().api == 12070
    machine.node.api = 13000
    machine.node.write()
    helper.start()


def test_a_driver_that_was_exchanged(machine, helper):
    """Its library says until its process's end that the kernel has another one."""
    helper.start()
    [before] = cuda_worker.helpers(os.getpid())
    machine.node.fail("nvml-device 18 1")
    assert helper.node().gpus
    until(lambda: before not in cuda_worker.helpers(os.getpid()))
    [before] = cuda_worker.helpers(os.getpid())
    machine.node.fail("state 803 1")
    assert helper.state(os.getpid()) == RUNNING
    until(lambda: before not in cuda_worker.helpers(os.getpid()))
    # It is tried once.
    machine.node.fail("nvml-device 18")
    with pytest.raises(errors.GpuError, match="NVML_ERROR_LIB_RM_VERSION_MISMATCH"):
        helper.node()


def test_a_step_is_never_made_twice(machine, helper):
    """Whether it was made nobody knows but the driver."""
    helper.start()
    with machine.worker() as worker:
        machine.node.fail("lock 803 1 after")
        with pytest.raises(errors.GpuError, match="CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"):
            helper.lock(worker.pid, 10)
        assert helper.state(worker.pid) == LOCKED


# -- its end


def test_the_next_call_starts_another_one(machine, helper):
    with machine.worker() as worker:
        suspend(helper, worker.pid)
        [before] = cuda_worker.helpers(os.getpid())
        os.kill(before, signal.SIGKILL)
        until(lambda: not helper._instance.usable)
        # The driver's state is the process's own.
        assert helper.state(worker.pid) == CHECKPOINTED
        assert cuda_worker.helpers(os.getpid()) != [before]
        go_on(helper, worker.pid)
        assert worker.intact()


def test_a_helper_that_dies_while_many_wait(machine, helper):
    with machine.worker() as worker:
        helper.start()
        machine.node.fail("hang state 60")
        with futures.ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(helper.state, worker.pid) for _ in range(4)]
            until(lambda: len(helper._instance._waiting) == 4)
            os.kill(*cuda_worker.helpers(os.getpid()), signal.SIGKILL)
            for future in waiting:
                error = future.exception(10)
                assert isinstance(error, errors.GpuError)
                assert "was killed by SIGKILL" in error.message
                assert error.reason == names.Reason.GPU_UNAVAILABLE
                assert error.retryable
        machine.node.fail()
        assert helper.state(worker.pid) == RUNNING


def test_a_helper_that_ends_between_look_and_question(helper, monkeypatch):
    """The question goes to the next one, and nobody is told."""
    helper.start()
    current, told = helper._current, []

    def lose():
        found, is_new = current()
        if not told:
            told.append(found)
            found.close()
        return found, is_new

    monkeypatch.setattr(helper, "_current", lose)
    assert helper.state(os.getpid()) == RUNNING
    assert helper._instance is not told[0]


def test_a_helper_that_always_ends(helper, monkeypatch):
    current = helper._current

    def lose():
        found, is_new = current()
        found.close()
        return found, is_new

    monkeypatch.setattr(helper, "_current", lose)
    with pytest.raises(errors.GpuError, match="has been ended"):
        helper.node()


def test_it_is_there_again_after_close(helper):
    helper.start()
    helper.close()
    assert cuda_worker.helpers(os.getpid()) == []
    assert helper.state(os.getpid()) == RUNNING


def test_close_of_what_was_never_started(helper):
    helper.close()
    helper.close()


@pytest.mark.parametrize(
    ("operation", "steps", "call"),
    [
        ("thread", 0, lambda helper, pid: helper.restore_thread(pid, timeout_seconds=0.2)),
        ("state", 0, lambda helper, pid: helper.state(pid, timeout_seconds=0.2)),
        ("lock", 0, lambda helper, pid: helper.lock(pid, 0.1)),
        ("checkpoint", 1, lambda helper, pid: helper.checkpoint(pid, timeout_seconds=0.2)),
        ("restore", 2, lambda helper, pid: helper.restore(pid, None, timeout_seconds=0.2)),
        ("unlock", 1, lambda helper, pid: helper.unlock(pid, timeout_seconds=0.2)),
        ("nvml-device", 0, lambda helper, pid: helper.node(timeout_seconds=0.2)),
        ("nvml-processes", 0, lambda helper, pid: helper.usage(timeout_seconds=0.2)),
    ],
)
def test_nothing_hangs_for_ever(machine, helper, monkeypatch, operation, steps, call):
    monkeypatch.setattr(client, "MARGIN_SECONDS", 0.1)
    with machine.worker() as worker:
        helper.start()
        if steps:
            helper.lock(worker.pid, 10)
        if steps == 2:
            helper.checkpoint(worker.pid)
        before = cuda_worker.helpers(os.getpid())
        machine.node.fail(f"hang {operation} 60")
        begin = time.monotonic()
        with pytest.raises(errors.GpuError, match=r"within 0\.2 seconds") as caught:
            call(helper, worker.pid)
        assert time.monotonic() - begin < 20
        assert caught.value.reason == names.Reason.GPU_UNAVAILABLE
        assert "NVRM" in caught.value.hint
        machine.node.fail()
        assert helper.state(worker.pid) in (RUNNING, LOCKED, CHECKPOINTED)
        until(lambda: not set(before) & set(cuda_worker.helpers(os.getpid())))


# -- no driver


def test_a_node_without_a_driver(tmp_path, absent):
    helper = client.Helper(scratch=tmp_path / "scratch", roots=["/run/nvidia/driver", "/opt"])
    assert not helper.available()
    for call in (helper.start, helper.node, helper.usage, lambda: helper.state(1)):
        with pytest.raises(errors.GpuError) as caught:
            call()
        assert caught.value.message == (
            "no NVIDIA driver: libcuda.so.1 and libnvidia-ml.so.1 were looked for on the node "
            "below /run/nvidia/driver, /opt, and in the agent's container"
        )
        assert caught.value.reason == names.Reason.GPU_UNAVAILABLE
    assert not (tmp_path / "scratch").exists()


def test_a_driver_is_not_looked_for_all_the_time(tmp_path, absent, monkeypatch):
    helper = client.Helper(scratch=tmp_path / "scratch")
    assert not any(helper.available() for _ in range(100))
    assert absent["calls"] == 1


def test_a_driver_that_is_installed_later(machine, tmp_path, absent, monkeypatch):
    helper = client.Helper(scratch=tmp_path / "scratch", roots=["/"], host=machine.libraries)
    assert not helper.available()
    absent["libraries"] = library.Libraries(
        machine.libraries, {name: machine.libraries / name for name in library.REQUIRED}
    )
    assert not helper.available()
    now = time.monotonic() + client.ABSENT_SECONDS
    with monkeypatch.context() as patch:
        patch.setattr(client.time, "monotonic", lambda: now)
        assert helper.available()
        assert helper.available()
    assert absent["calls"] == 2
    helper.start()
    helper.close()
    # A new one looks again.
    absent["libraries"] = None
    with pytest.raises(errors.GpuError, match="no NVIDIA driver"):
        helper.start()


def test_a_helper_that_runs_is_available(machine, helper, monkeypatch):
    helper.start()
    monkeypatch.setattr(library, "find", lambda *_: pytest.fail("looked for a driver"))
    assert helper.available()


def test_device_files_are_made_first(machine, helper, monkeypatch):
    made = []
    monkeypatch.setattr(library, "make_device_files", lambda *args: made.append(args))
    helper.start()
    helper.state(os.getpid())
    assert made == [(machine.libraries, ("/",))]


def test_device_files_that_cannot_be_made(helper, monkeypatch):
    def refuse(*_):
        raise errors.GpuError("/dev/nvidia0: cannot be made: Operation not permitted")

    monkeypatch.setattr(library, "make_device_files", refuse)
    with pytest.raises(errors.GpuError, match="Operation not permitted"):
        helper.node()
    assert cuda_worker.helpers(os.getpid()) == []


def test_libraries_are_linked_into_the_scratch_directory(machine, helper, tmp_path):
    helper.start()
    links = tmp_path / "scratch/gpu-libraries"
    assert {path.name: os.readlink(path) for path in links.iterdir()} == {
        name: str(machine.libraries / name) for name in library.REQUIRED
    }
    [pid] = cuda_worker.helpers(os.getpid())
    environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"LD_LIBRARY_PATH={links}".encode() in environment


def test_a_scratch_directory_that_cannot_be_written(machine, tmp_path):
    (tmp_path / "file").touch()
    helper = client.Helper(scratch=tmp_path / "file", roots=["/"], host=machine.libraries)
    with pytest.raises(errors.GpuError, match="file/gpu-libraries: cannot be filled: Not a dir"):
        helper.start()


def test_no_thread_for_another_helper(helper, monkeypatch):
    def refuse(_):
        raise errors.GpuError("the GPU helper could not be started: can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(instance, "Instance", refuse)
        with pytest.raises(errors.GpuError, match="can't start new thread"):
            helper.start()
    helper.start()
