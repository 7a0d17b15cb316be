"""GPU memory of several processes goes into host memory and back: all or none, whatever fails.

The processes are real, the driver is not: `fakes.cuda_helper` keeps its states. What each table
asks for at its end is the same: nobody who lives is left locked, or the caller knows of it.
"""

import itertools
import logging
import threading
import time

import pytest

from chrek import errors, log
from chrek.cuda import recovery, suspension, words
from fakes import cuda_helper
from fakes.cuda_helper import CHECKPOINTED, DIES, FOR_EVER, GONE, INTERRUPTED, LATER, LOST, RUNNING

LOG = log.get("test")
COUNT = 4
CODES = sorted(cuda_helper.CODES)
WORDS = (DIES, GONE, LOST, LATER, INTERRUPTED)
CAPTURE = [
    *itertools.product(("restore_thread", "state", "lock", "checkpoint"), (*CODES, *WORDS)),
]
# The helper makes no error of it: the process does not use CUDA.
CAPTURE.remove(("restore_thread", "INVALID_VALUE"))
GOING_ON = [*itertools.product(("state", "restore", "unlock"), (*CODES, *WORDS))]
RESTORE = [*itertools.product(("state", "restore", "unlock"), (*CODES, DIES, GONE, LOST))]
LOCK_SECONDS = 0.2
REASONS = {
    "restore_thread": dict.fromkeys(CODES, "OfTheDriver"),
    "state": dict.fromkeys(CODES, "GpuUnavailable"),
    "lock": dict.fromkeys(CODES, "GpuCheckpointFailed")
    | {"NOT_READY": "GpuLockTimeout", "NOT_SUPPORTED": "GpuStateUnsupported"},
    "checkpoint": dict.fromkeys(CODES, "GpuCheckpointFailed")
    | {"NOT_SUPPORTED": "GpuStateUnsupported", "OUT_OF_MEMORY": "InsufficientHostMemory"},
    "restore": dict.fromkeys(CODES, "GpuRestoreFailed") | {"OUT_OF_MEMORY": "GpuMemoryTooSmall"},
    "unlock": dict.fromkeys(CODES, "GpuRestoreFailed"),
}


@pytest.fixture(scope="module")
def children():
    made = cuda_helper.Children()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(recovery, "UNSETTLED_SECONDS", 0.5)
    monkeypatch.setattr(recovery, "PAUSE_SECONDS", (0.001, 0.01))
    monkeypatch.setattr(recovery, "ENDING_SECONDS", 0.01)
    monkeypatch.setattr(suspension, "_MARGIN_SECONDS", 0.05)


class Case:
    """Some processes, their driver, and what a caller is told."""

    def __init__(self, pids):
        self.pids = pids
        self.helper = cuda_helper.Helper(pids)
        self.seconds = {}
        self.stuck = []

    def fail(self, operation, pid, error, **how):
        self.helper.failures.append(cuda_helper.Failure(operation, pid, error, **how))

    def begin(self, **arguments):
        return suspension.Suspension.begin(
            self.helper,
            self.pids,
            **{"lock_timeout_seconds": LOCK_SECONDS} | arguments,
            logger=LOG,
            seconds=self.seconds,
            on_stuck=self.stuck.extend,
        )

    def resume(self, mapping=None, **arguments):
        suspension.resume(self.helper, self.pids, mapping, LOG, self.seconds, **arguments)

    def steps(self, *operations):
        return [name for name, _ in self.helper.calls if name in operations]

    def all_are(self, state):
        living = self.helper.living()
        assert living == dict.fromkeys(living, state)
        return True


@pytest.fixture
def case(children):
    return Case(children.take(COUNT))


def at_once(case, *operations):
    """Have each of some operations wait for the same of all other processes."""
    for name in operations:
        case.helper.barriers[name] = threading.Barrier(COUNT)


def test_all_are_suspended_at_once_and_go_on_at_once(case):
    at_once(case, "restore_thread", "lock", "checkpoint", "restore", "unlock")
    usage = [
        words.Usage(uuid=f"GPU-{n}", freeBytes=0, persistence=False, processes={pid: 1 + n})
        for n, pid in enumerate(case.pids)
    ]
    with case.begin(usage=usage) as suspended:
        assert case.all_are(CHECKPOINTED)
        assert [process.pid for process in suspended.processes] == case.pids
        assert suspended.processes[0].nspid == case.pids[0]
        assert suspended.bytes == 1 + 2 + 3 + 4
        assert list(case.seconds) == ["gpu_lock", "gpu_checkpoint"]
    assert case.all_are(RUNNING)
    steps = case.steps("lock", "checkpoint", "restore", "unlock")
    assert steps == [n for n in ("lock", "checkpoint", "restore", "unlock") for _ in range(COUNT)]
    assert set(case.helper.mappings) == {None}
    assert set(case.seconds) == {"gpu_lock", "gpu_checkpoint", "gpu_restore", "gpu_unlock"}


def test_processes_without_cuda_are_left_alone(case):
    pid = case.pids[1]
    del case.helper.states[pid]
    with case.begin() as suspended:
        assert pid not in [process.pid for process in suspended.processes]
    assert {name for name, of in case.helper.calls if of == pid} == {"restore_thread"}


def test_nobody_uses_cuda(case):
    case.helper.states.clear()
    with case.begin() as suspended:
        assert suspended.processes == ()
        assert suspended.bytes == 0
    assert set(case.steps("lock", "checkpoint", "restore", "unlock")) == set()


def test_no_time_is_not_endless_time(case):
    """The fake asserts it."""
    case.begin(lock_timeout_seconds=0).resume()


def test_resumed_once(case):
    with case.begin() as suspended:
        suspended.resume()
        case.helper.calls.clear()
        suspended.resume()
    assert case.helper.calls == []
    assert suspended.stuck == ()


def test_who_has_ended_needs_no_resume(case):
    with case.begin():
        for pid in case.pids[:2]:
            cuda_helper.kill(pid)
    assert case.all_are(RUNNING)
    assert len(case.helper.living()) == COUNT - 2
    assert case.stuck == []


@pytest.mark.parametrize("index", range(COUNT))
@pytest.mark.parametrize(("step", "error"), CAPTURE)
def test_crash_table_of_the_capture(case, step, index, error):
    """A failure of one call, at each step of each process."""
    case.fail(step, case.pids[index], error)
    if error == DIES and step != "checkpoint":
        with case.begin() as suspended:
            assert len(suspended.processes) == COUNT - 1
            assert case.all_are(CHECKPOINTED)
    elif error == INTERRUPTED:
        with pytest.raises(KeyboardInterrupt):
            case.begin()
    else:
        with pytest.raises(errors.GpuError) as caught:
            case.begin()
        expected = REASONS[step].get(error, "GpuUnavailable")
        assert caught.value.reason == ("GpuCheckpointFailed" if error == DIES else expected)
        if step in ("lock", "checkpoint"):
            assert f"process {case.pids[index]} (sleep)" in caught.value.message
    assert case.all_are(RUNNING)
    assert len(case.helper.living()) == COUNT - (error == DIES)
    assert case.stuck == []


@pytest.mark.parametrize("index", range(COUNT))
@pytest.mark.parametrize(("step", "error"), GOING_ON)
def test_crash_table_of_going_on(case, step, index, error):
    """A failure of one call after a capture: the next one heals it."""
    suspended = case.begin()
    case.fail(step, case.pids[index], error)
    if error == INTERRUPTED:
        with pytest.raises(KeyboardInterrupt):
            suspended.resume()
    else:
        suspended.resume()
    assert case.all_are(RUNNING)
    assert case.stuck == []


@pytest.mark.parametrize("index", range(COUNT))
@pytest.mark.parametrize(
    ("first", "step", "error"),
    [
        ("lock", "unlock", "UNKNOWN"),
        ("lock", "state", GONE),
        ("checkpoint", "restore", "OPERATING_SYSTEM"),
        ("checkpoint", "restore", GONE),
        ("checkpoint", "unlock", "ILLEGAL_STATE"),
        ("checkpoint", "state", "NOT_INITIALIZED"),
        ("checkpoint", "restore", DIES),
        ("checkpoint", "unlock", INTERRUPTED),
    ],
)
@pytest.mark.parametrize("times", [1, FOR_EVER])
def test_crash_table_of_the_way_back(case, first, step, index, error, times):
    """The next process's lock or checkpoint fails, and then the way back does."""
    case.fail(first, case.pids[(index + 1) % COUNT], "UNKNOWN")
    pid = case.pids[index]
    # The state was asked for once before the lock.
    case.fail(step, pid, error, times=times, after=step == "state")
    ends_it = error in (DIES, INTERRUPTED)
    with pytest.raises(KeyboardInterrupt if error == INTERRUPTED else errors.GpuError) as caught:
        case.begin()
    if error != INTERRUPTED:
        assert caught.value.reason == "GpuCheckpointFailed", "of what failed first"
    stuck = [pid] if times == FOR_EVER and not ends_it else []
    assert [process.pid for process in case.stuck] == stuck
    living = case.helper.living()
    assert {other for other, state in living.items() if state != RUNNING} <= set(stuck)
    assert len(living) == COUNT - (error == DIES)


@pytest.mark.parametrize("index", range(COUNT))
def test_a_process_that_the_driver_gives_up_is_told_of(case, index, caplog):
    pid = case.pids[index]
    case.fail("checkpoint", pid, "UNKNOWN", leaves=words.State.FAILED)
    with pytest.raises(errors.GpuError) as caught, caplog.at_level(logging.ERROR):
        case.begin()
    assert caught.value.reason == "GpuCheckpointFailed"
    assert [process.pid for process in case.stuck] == [pid]
    (record,) = [r for r in caplog.records if r.getMessage() == "gpu process cannot go on"]
    assert (record.levelname, record.pid, record.error) == ("ERROR", pid, "its CUDA is failed")
    living = case.helper.living()
    del living[pid]
    assert set(living.values()) == {RUNNING}


def test_who_cannot_go_on_after_a_capture_is_told_of_and_raised(case):
    for pid in case.pids[:2]:
        case.fail("restore", pid, "OUT_OF_MEMORY", times=FOR_EVER)
    suspended = case.begin()
    with pytest.raises(errors.GpuError) as caught, suspended:
        pass
    assert caught.value.reason == "GpuRestoreFailed"
    assert f"process {case.pids[0]} (sleep) and 1 more: cannot go on" in caught.value.message
    assert [process.pid for process in suspended.stuck] == case.pids[:2]
    assert [process.pid for process in case.stuck] == case.pids[:2]


def test_what_failed_first_is_what_is_raised(case):
    case.fail("unlock", case.pids[0], "UNKNOWN", times=FOR_EVER)
    with pytest.raises(ValueError, match="of the dump"), case.begin():
        raise ValueError("of the dump")
    assert [process.pid for process in case.stuck] == case.pids[:1]


def test_a_process_that_the_driver_sees_end_first(case, monkeypatch):
    """Its end is no failure, though its lock fails while it can still be seen."""
    monkeypatch.setattr(recovery, "ENDING_SECONDS", 5)
    pid = case.pids[0]
    case.fail("lock", pid, "INVALID_VALUE")
    timer = threading.Timer(0.2, cuda_helper.kill, (pid,))
    timer.start()
    with case.begin() as suspended:
        assert len(suspended.processes) == COUNT - 1
    timer.join()


@pytest.mark.parametrize("fails", [True, False], ids=["in its call", "after its call"])
def test_a_process_that_ends_meanwhile(case, fails):
    """What is left of the tree is not what was to be captured."""
    pid, real = case.pids[2], case.helper.checkpoint

    def checkpoint(of):
        if of == pid and fails:
            cuda_helper.kill(of)
        real(of)
        if of == pid and not fails:
            cuda_helper.kill(of)

    case.helper.checkpoint = checkpoint
    with pytest.raises(errors.GpuError) as caught:
        case.begin()
    assert caught.value.reason == "GpuCheckpointFailed"
    assert f"process {pid} (sleep): it ended while" in caught.value.message
    assert "resources.limits.memory" in caught.value.hint
    assert case.all_are(RUNNING)


def test_several_are_late(case):
    for pid in case.pids[2:]:
        case.fail("lock", pid, "NOT_READY")
    with pytest.raises(errors.GpuError) as caught:
        case.begin()
    err = caught.value
    assert err.message == (
        f"process {case.pids[2]} (sleep) and 1 more: its work on the GPU did not end within "
        "0.2 seconds: CUDA_ERROR_NOT_READY"
    )
    assert err.code == "CUDA_ERROR_NOT_READY"
    assert "quiesce first" in err.hint
    assert "docs/gpu.md" in err.hint


def test_what_the_driver_cannot_checkpoint_is_not_tried_again(case):
    case.fail("checkpoint", case.pids[0], "NOT_SUPPORTED")
    with pytest.raises(errors.GpuError) as caught:
        case.begin()
    assert not caught.value.retryable
    assert all(word in caught.value.hint for word in ("CUDA IPC", "610", "managed", "docs/gpu.md"))


def test_what_the_driver_says_counts_more_than_a_helper_that_ended(case):
    case.fail("checkpoint", case.pids[0], GONE)
    case.fail("checkpoint", case.pids[3], "OUT_OF_MEMORY")
    with pytest.raises(errors.GpuError) as caught:
        case.begin()
    assert caught.value.reason == "InsufficientHostMemory"


def test_errors_that_are_nobodys_plan(case):
    """Such as a bug, or no descriptors."""

    def checkpoint(pid):
        raise OSError(24, "Too many open files")

    case.helper.checkpoint = checkpoint
    with pytest.raises(errors.GpuError, match="Too many open files"):
        case.begin()
    assert case.all_are(RUNNING)


@pytest.mark.parametrize("state", [words.State.LOCKED, CHECKPOINTED])
def test_what_a_killed_agent_left_is_brought_back_first(case, state):
    case.helper.states[case.pids[1]] = state
    with case.begin():
        assert case.all_are(CHECKPOINTED)
    assert case.all_are(RUNNING)


def test_what_the_helper_cannot_do_is_raised_as_it_says(case):
    def lock(pid, timeout_seconds):
        err = errors.GpuError("no such function", hint="upgrade", reason="GpuDriverTooOld")
        err.retryable = False
        raise err

    case.helper.lock = lock
    with pytest.raises(errors.GpuError) as caught:
        case.begin()
    err = caught.value
    assert err.message == f"process {case.pids[0]} (sleep) and 3 more: no such function"
    assert (err.hint, err.reason, err.retryable) == ("upgrade", "GpuDriverTooOld", False)
    assert case.all_are(RUNNING)


def test_what_a_killed_agent_left_for_good(case):
    case.helper.states[case.pids[1]] = words.State.FAILED
    with pytest.raises(errors.GpuError) as caught:
        case.begin()
    assert caught.value.message == f"process {case.pids[1]} (sleep): its CUDA is failed"
    assert [process.pid for process in case.stuck] == [case.pids[1]]
    assert case.steps("lock") == []


def test_release(case):
    helper = case.helper
    helper.states |= {case.pids[0]: CHECKPOINTED, case.pids[1]: words.State.LOCKED}
    assert suspension.release(helper, case.pids, LOG, on_stuck=case.stuck.extend) == ()
    assert case.all_are(RUNNING)
    helper.states[case.pids[2]] = CHECKPOINTED
    case.fail("restore", case.pids[2], "OPERATING_SYSTEM", times=FOR_EVER)
    (stuck,) = suspension.release(helper, case.pids, LOG, on_stuck=case.stuck.extend)
    assert stuck.pid == case.pids[2]
    assert case.stuck == [stuck]


def test_a_call_that_hangs_for_a_while_does_not_hold_up_the_others(case):
    """Only its own step waits for it; nothing is done to a process while a call of it runs."""
    slow, real = case.pids[0], case.helper.checkpoint

    def checkpoint(pid):
        if pid == slow:
            time.sleep(0.1)
        real(pid)

    case.helper.checkpoint = checkpoint
    case.fail("checkpoint", case.pids[1], "UNKNOWN")
    with pytest.raises(errors.GpuError):
        case.begin()
    assert case.all_are(RUNNING)


MAPPING = {"GPU-a": "GPU-b", "GPU-b": "GPU-a"}


@pytest.fixture
def restored(case):
    """As CRIU leaves them."""
    case.helper.states = dict.fromkeys(case.pids, CHECKPOINTED)
    return case


@pytest.mark.parametrize("mapping", [None, MAPPING])
def test_restored_processes_go_on_together(restored, mapping):
    at_once(restored, "restore", "unlock")
    restored.resume(mapping)
    assert restored.all_are(RUNNING)
    assert restored.helper.mappings == [mapping] * COUNT
    assert restored.steps("restore", "unlock") == ["restore"] * COUNT + ["unlock"] * COUNT
    assert list(restored.seconds) == ["gpu_restore", "gpu_unlock"]


@pytest.mark.parametrize("index", range(COUNT))
@pytest.mark.parametrize(
    ("step", "error"),
    [*itertools.product(("state", "restore", "unlock"), (*CODES, DIES, GONE, LOST))],
)
def test_crash_table_of_the_restore(restored, step, index, error):
    """None goes on before all can: the pod starts cold."""
    pid = restored.pids[index]
    restored.fail(step, pid, error)
    with pytest.raises(errors.GpuError) as caught:
        restored.resume(MAPPING, sizes=dict.fromkeys(restored.pids, 3 << 30))
    expected = REASONS["restore" if step == "state" else step]
    assert caught.value.reason == (
        "GpuUnavailable" if error in (GONE, LOST) else expected.get(error, "GpuRestoreFailed")
    )
    assert f"process {pid} (sleep)" in caught.value.message
    if step != "unlock":
        assert restored.steps("unlock") == []
        assert RUNNING not in restored.helper.living().values()


def test_too_little_memory_says_how_much(restored):
    for pid in restored.pids[1:]:
        restored.fail("restore", pid, "OUT_OF_MEMORY")
    with pytest.raises(errors.GpuError) as caught:
        restored.resume(sizes=dict.fromkeys(restored.pids, 3 << 30))
    assert "and 2 more: the GPU has no room for 9.0 GiB" in caught.value.message
    assert "nvidia-smi" in caught.value.hint


@pytest.mark.parametrize("state", [RUNNING, words.State.LOCKED, words.State.FAILED])
def test_restored_in_another_state(restored, state):
    restored.helper.states[restored.pids[3]] = state
    with pytest.raises(errors.GpuError) as caught:
        restored.resume()
    assert f"its CUDA is {state}, not checkpointed" in caught.value.message
    assert caught.value.reason == "GpuRestoreFailed"
    assert restored.steps("unlock") == []


def test_a_restored_process_that_is_gone(restored):
    restored.pids.append(1 << 22)
    with pytest.raises(errors.GpuError, match=f"process {1 << 22} of the host ended") as caught:
        restored.resume()
    assert caught.value.reason == "GpuRestoreFailed"
    assert restored.steps("restore") == []
