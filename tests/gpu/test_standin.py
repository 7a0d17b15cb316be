"""The stand-ins for libcuda.so.1 and libnvidia-ml.so.1 behave as the driver's documentation says.

State machine and mapping rule: "Checkpointing" of the CUDA driver API's reference and the README
of cuda-checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from gpu.standin import build
from gpu.standin.processes import (
    CHECKPOINTED,
    FAILED,
    LOCKED,
    PYTHON,
    RUNNING,
    WORKLOAD,
    Caller,
    Workload,
    read,
    wait_until,
)

INVALID_VALUE = 1
OUT_OF_MEMORY = 2
NOT_INITIALIZED = 3
NO_DEVICE = 100
OPERATING_SYSTEM = 304
ILLEGAL_STATE = 401
NOT_READY = 600
NOT_SUPPORTED = 801
UNKNOWN = 999

Start = Callable[..., Workload]
Move = Callable[[build.Node], None]


def checkpoint(call: Caller, *workloads: Workload) -> None:
    for workload in workloads:
        assert call("lock", workload.pid, 2000) == 0
    for workload in workloads:
        assert call("checkpoint", workload.pid) == 0


def resume(call: Caller, workload: Workload, *mapping: str) -> None:
    assert call("restore", workload.pid, *mapping) == 0
    assert call("unlock", workload.pid) == 0


def pairs(old: build.Node, new: build.Node, order: list[int]) -> list[str]:
    return [f"{old.uuids[i]}={new.uuids[to]}" for i, to in enumerate(order)]


def other_node(node: build.Node, gpus: int | list[build.Gpu] = 2, **options: object) -> build.Node:
    return build.Node(node.path.parent / "other", gpus, **options)


def answered(code: str, environment: dict[str, str]) -> object:
    """What a program prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_busy(call: Caller, workload: Workload) -> None:
    """Until a driver call that takes its time has begun."""

    def busy() -> bool:
        code = call("lock", workload.pid, 30)
        return code == NOT_READY or call("unlock", workload.pid) != 0

    wait_until(busy)


# ---- the state machine ----


def test_life(workload: Workload, call: Caller) -> None:
    """Every state in turn; the calls between are in test_illegal."""
    digest, pinned = workload.ask("digest"), workload.ask("pinned")
    assert call.state(workload.pid) == RUNNING
    assert call("lock", workload.pid, 2000) == 0
    assert call.state(workload.pid) == LOCKED
    assert call("checkpoint", workload.pid) == 0
    assert call.state(workload.pid) == CHECKPOINTED
    assert call("restore", workload.pid) == 0
    assert call.state(workload.pid) == LOCKED
    assert call("unlock", workload.pid) == 0
    assert call.state(workload.pid) == RUNNING
    assert (workload.ask("digest"), workload.ask("pinned")) == (digest, pinned)
    assert workload.ask("add", 3) != digest


STEPS = {
    RUNNING: [],
    LOCKED: [["lock", "2000"]],
    CHECKPOINTED: [["lock", "2000"], ["checkpoint"]],
}
CALLS = {
    "lock": (["lock", "2000"], RUNNING),
    "checkpoint": (["checkpoint"], LOCKED),
    "restore": (["restore"], CHECKPOINTED),
    "unlock": (["unlock"], LOCKED),
}


@pytest.mark.parametrize("state", STEPS)
def test_illegal(workload: Workload, call: Caller, state: int) -> None:
    for name, *words in STEPS[state]:
        assert call(name, workload.pid, *words) == 0
    refused = [
        name
        for name, ((operation, *words), allowed) in CALLS.items()
        if allowed != state and call(operation, workload.pid, *words) == ILLEGAL_STATE
    ]
    assert refused == [name for name, (_, allowed) in CALLS.items() if allowed != state]
    assert call.state(workload.pid) == state


def test_unlock_without_checkpoint(workload: Workload, call: Caller) -> None:
    digest = workload.ask("digest")
    assert call("lock", workload.pid, 2000) == 0
    assert call("unlock", workload.pid) == 0
    assert workload.ask("digest") == digest


def test_calls_block_while_locked(workload: Workload, call: Caller) -> None:
    wait_until(lambda: int(workload.ask("calls")) > 0)
    assert call("lock", workload.pid, 2000) == 0
    before = workload.ask("calls")
    with workload.connect("digest") as waiting:
        waiting.settimeout(0.1)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        # The process itself runs on; its driver calls wait, also through a checkpoint.
        assert workload.ask("calls") == before
        assert call("checkpoint", workload.pid) == 0
        assert workload.ask("calls") == before
        resume(call, workload)
        waiting.settimeout(10)
        assert len(read(waiting).split()) == 2
    wait_until(lambda: int(workload.ask("calls")) > int(before))


def test_lock_waits_for_calls_and_times_out(start: Start, call: Caller, node: build.Node) -> None:
    workload = start(GPUS="0")
    node.fail("hang synchronize 60")
    waiting = workload.connect("synchronize")
    wait_busy(call, workload)
    begun = time.monotonic()
    assert call("lock", workload.pid, 200) == NOT_READY
    assert 0.2 <= time.monotonic() - begun < 2
    assert call.state(workload.pid) == RUNNING
    assert workload.ask("free")
    call.send("lock", workload.pid, 5000)
    time.sleep(0.05)
    node.fail()
    assert read(waiting) == "synchronized"
    assert call.receive() == [0]
    assert call.state(workload.pid) == LOCKED


def test_lock_without_a_timeout_waits(workload: Workload, call: Caller, node: build.Node) -> None:
    node.fail("hang synchronize 0.3 1")
    waiting = workload.connect("synchronize")
    wait_until(lambda: not node.pending())
    assert call("lock", workload.pid, 0) == 0
    assert call("unlock", workload.pid) == 0
    assert read(waiting) == "synchronized synchronized"


def test_a_stopped_process_cannot_be_locked(workload: Workload, call: Caller) -> None:
    workload.stop()
    assert call("lock", workload.pid, 100) == NOT_READY
    workload.go_on()
    assert workload.ask("digest")
    assert call.state(workload.pid) == RUNNING


def test_the_process_dies_while_it_is_waited_for(
    workload: Workload, call: Caller, node: build.Node
) -> None:
    node.fail("hang synchronize 60")
    with workload.connect("synchronize"):
        wait_busy(call, workload)
        call.send("lock", workload.pid, 0)
        time.sleep(0.05)
        os.kill(workload.pid, signal.SIGKILL)
        assert call.receive() == [OPERATING_SYSTEM]
    workload.end()
    call.send("state", workload.pid)
    assert call.receive()[0] == INVALID_VALUE


def test_the_caller_dies_in_a_call(
    workload: Workload, call: Caller, libraries: pathlib.Path, node: build.Node
) -> None:
    """What it had asked is done or forgotten, and the next caller goes on."""
    short_lived = Caller({"PATH": os.environ["PATH"], **node.environment(libraries)})
    assert short_lived("init") == 0
    workload.stop()
    short_lived.send("lock", workload.pid, 0)
    time.sleep(0.1)
    short_lived.close()
    workload.go_on()
    assert call("lock", workload.pid, 2000) in (0, ILLEGAL_STATE)
    assert call.state(workload.pid) == LOCKED
    assert call("checkpoint", workload.pid) == 0
    resume(call, workload)
    assert workload.ask("digest")


def test_the_caller_dies_while_the_process_is_busy(
    start: Start, call: Caller, libraries: pathlib.Path, node: build.Node
) -> None:
    """Its lock is taken in the end; the next caller's answer is the one to its own call."""
    workload = start(GPUS="0")
    short_lived = Caller({"PATH": os.environ["PATH"], **node.environment(libraries)})
    assert short_lived("init") == 0
    node.fail("hang synchronize 60")
    waiting = workload.connect("synchronize")
    wait_busy(call, workload)
    short_lived.send("lock", workload.pid, 0)
    time.sleep(0.1)
    short_lived.close()
    assert call("lock", workload.pid, 100) == NOT_READY
    call.send("lock", workload.pid, 5000)
    time.sleep(0.05)
    node.fail()
    assert read(waiting) == "synchronized"
    assert call.receive() == [ILLEGAL_STATE]
    assert call.state(workload.pid) == LOCKED


def test_callers_take_turns(
    workload: Workload, call: Caller, second_call: Caller, node: build.Node
) -> None:
    node.fail("hang lock 0.2 1")
    call.send("lock", workload.pid, 2000)
    wait_until(lambda: not node.pending())
    assert second_call("lock", workload.pid, 2000) == ILLEGAL_STATE
    assert call.receive() == [0]


def test_several_processes_at_once(
    start: Start, call: Caller, second_call: Caller, node: build.Node
) -> None:
    """A hanging checkpoint of one does not hold up another's."""
    first, second = start(GPUS="0"), start(GPUS="1")
    digests = first.ask("digest"), second.ask("digest")
    assert call("lock", first.pid, 2000) == second_call("lock", second.pid, 2000) == 0
    node.fail(f"hang checkpoint 60 pid={first.pid}")
    call.send("checkpoint", first.pid)
    assert second_call("checkpoint", second.pid) == 0
    assert second_call.state(first.pid) == LOCKED
    node.fail()
    assert call.receive() == [0]
    resume(call, first)
    resume(call, second)
    assert (first.ask("digest"), second.ask("digest")) == digests


# ---- who has CUDA state ----


def test_calls_need_initialisation(libraries: pathlib.Path, node: build.Node) -> None:
    caller = Caller({"PATH": os.environ["PATH"], **node.environment(libraries)})
    pid = os.getpid()
    codes = [caller(name, pid) for name in ("thread", "state", "checkpoint", "restore", "unlock")]
    assert [*codes, caller("lock", pid, 0)] == [NOT_INITIALIZED] * 6
    assert caller("init") == 0
    assert caller("state", pid) == 0
    caller.close()


def test_restore_thread(workload: Workload, call: Caller) -> None:
    call.send("thread", workload.pid)
    code, thread = call.receive()
    assert code == 0
    assert thread != workload.pid
    assert str(thread) in os.listdir(f"/proc/{workload.pid}/task")


def test_a_process_without_cuda(call: Caller) -> None:
    """The driver says "running" of any process; the restore thread tells the difference."""
    pid = os.getpid()
    assert call("thread", pid) == INVALID_VALUE
    assert call.state(pid) == RUNNING
    assert call("lock", pid, 100) == INVALID_VALUE


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_no_process(call: Caller, pid: int) -> None:
    assert call("state", pid) == call("thread", pid) == call("lock", pid, 100) == INVALID_VALUE


def ranks(workload: Workload) -> list[int]:
    children = pathlib.Path(f"/proc/{workload.pid}/task/{workload.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def test_ranks(start: Start, call: Caller, node: build.Node) -> None:
    """A process per GPU below a coordinator, which has no CUDA state."""
    parent = start(PROCESSES="1", GPUS="0,1")
    digest = parent.ask("digest")
    assert parent.ask("pids") == " ".join(map(str, ranks(parent)))
    assert parent.ask("uuids") == " ".join(node.uuids)
    assert call("thread", parent.pid) == INVALID_VALUE
    for pid in ranks(parent):
        assert call("thread", pid) == call("lock", pid, 2000) == call("checkpoint", pid) == 0
    assert node.used(0) == node.used(1) == 0
    swap = pairs(node, node, [1, 0])
    for pid in ranks(parent):
        assert call("restore", pid, *swap) == call("unlock", pid) == 0
    assert parent.ask("uuids") == " ".join(reversed(node.uuids))
    assert parent.ask("digest") == digest


FORK = """
import ctypes, os, sys
library = ctypes.CDLL("libcuda.so.1")
address, context, count = ctypes.c_uint64(), ctypes.c_void_p(), ctypes.c_int()
assert library.cuInit(0) == 0
assert library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert library.cuCtxSetCurrent(context) == 0
assert library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(640 << 10)) == 0
if os.fork() == 0:
    print(os.getpid(), library.cuInit(0), library.cuDeviceGetCount(ctypes.byref(count)))
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)
os.wait()
"""


def test_a_forked_child_has_no_cuda(
    start: Start, call: Caller, node: build.Node, environment: dict[str, str]
) -> None:
    """Although it has its parent's descriptors; nor does it keep its parent's device memory."""
    with subprocess.Popen(
        [*PYTHON, "-c", FORK],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        pid, *codes = (int(word) for word in parent.stdout.readline().split())
        assert codes == [NOT_INITIALIZED, NOT_INITIALIZED]
        child = pathlib.Path(f"/proc/{pid}")
        assert any("standin-cuda" in os.readlink(path) for path in (child / "fd").iterdir())
        assert "allocation-" not in (child / "maps").read_text()
        assert call("thread", pid) == INVALID_VALUE
        assert call("thread", parent.pid) == 0
        parent.kill()
        parent.wait()
        assert start(GPUS="0", BYTES=str(640 << 10)).ask("free") == str(384 << 10)
        assert child.exists()
        parent.stdin.close()


def namespaced(*options: str) -> list[str]:
    if os.geteuid() != 0:
        pytest.skip("only root makes namespaces")
    return ["unshare", *options]


def child_of(workload: Workload) -> int:
    return ranks(workload)[0]


def test_across_pid_namespaces(
    start: Start, call: Caller, node: build.Node, libraries: pathlib.Path
) -> None:
    """The caller uses PIDs of its own namespace; the workload there is PID 1."""
    workload = start(*namespaced("--pid", "--kill-child", "--mount-proc"))
    assert workload.ask("pids") == "1"
    pid = child_of(workload)
    call.send("thread", pid)
    code, thread = call.receive()
    assert code == 0
    assert str(thread) in os.listdir(f"/proc/{pid}/task")
    assert owners(node, libraries) == [[[pid, 65536]], [[pid, 65536]]]
    digest = workload.ask("digest")
    assert call("lock", pid, 2000) == call("checkpoint", pid) == 0
    assert owners(node, libraries) == [[], []]
    assert call("restore", pid) == call("unlock", pid) == 0
    assert workload.ask("digest") == digest


# ---- device memory ----


def addresses(workload: Workload) -> list[str]:
    return sorted(
        line.split()[0] for line in workload.maps().splitlines() if "/allocation-" in line
    )


def test_memory_goes_and_comes_back(workload: Workload, call: Caller, node: build.Node) -> None:
    digest, places = workload.ask("digest"), addresses(workload)
    assert len(places) == 4
    assert node.used(0) == node.used(1) == 65536
    checkpoint(call, workload)
    assert addresses(workload) == []
    assert not [path for path in workload.files() if str(node.path) in path]
    assert node.files(0) == node.files(1) == []
    resume(call, workload)
    assert workload.ask("digest") == digest
    assert addresses(workload) == places


def test_the_bytes_are_in_the_process_while_checkpointed(
    workload: Workload, call: Caller, node: build.Node
) -> None:
    """Nothing but the process's own memory is needed: the node's files were emptied meanwhile."""
    digest = workload.ask("digest")
    checkpoint(call, workload)
    shutil.rmtree(node.path / "memory")
    node.write()
    resume(call, workload)
    assert workload.ask("digest") == digest


def test_addresses_stay_taken(workload: Workload, call: Caller) -> None:
    places = addresses(workload)
    checkpoint(call, workload)
    reserved = [line for line in workload.maps().splitlines() if " ---p 00000000 00:00 0" in line]
    begins = {int(line.split("-")[0], 16): line for line in reserved}
    for place in places:
        begin, end = (int(word, 16) for word in place.split("-"))
        assert any(
            at <= begin and end <= int(line.split()[0].split("-")[1], 16)
            for at, line in begins.items()
        )


def test_many_rounds(workload: Workload, call: Caller, node: build.Node) -> None:
    for number in range(5):
        digest = workload.ask("add", number)
        checkpoint(call, workload)
        resume(call, workload)
        assert workload.ask("digest") == digest
    assert node.used(0) == 65536


def test_memory_of_the_dead_is_free(start: Start, node: build.Node) -> None:
    first = start(BYTES=str(640 << 10), GPUS="0")
    first.end()
    second = start(BYTES=str(640 << 10), GPUS="0")
    assert len(node.files(0)) == 2
    assert second.ask("free") == str(384 << 10)


def test_no_more_than_the_gpu_has(start: Start, environment: dict[str, str]) -> None:
    start(BYTES=str(640 << 10), GPUS="0")
    done = subprocess.run(
        [*PYTHON, WORKLOAD],
        env={**environment, "BYTES": str(640 << 10), "GPUS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"cuMemAlloc_v2: CUDA error {OUT_OF_MEMORY}" in done.stderr


def test_a_share_of_a_gpu(start: Start, call: Caller, node: build.Node) -> None:
    """Time slicing: two processes on one GPU, one of them is checkpointed."""
    first, second = start(GPUS="0"), start(GPUS="0")
    checkpoint(call, first)
    assert node.used(0) == 65536
    assert second.ask("free") == str((1 << 20) - 65536)
    resume(call, first)
    assert node.used(0) == 2 * 65536


# ---- onto other GPUs ----


def test_swap(workload: Workload, call: Caller, node: build.Node) -> None:
    digest = workload.ask("digest")
    checkpoint(call, workload)
    resume(call, workload, *pairs(node, node, [1, 0]))
    assert workload.ask("uuids").split() == node.uuids[::-1]
    assert workload.ask("digest") == digest


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_another_node(
    workload: Workload, call: Caller, node: build.Node, move: Move, order: list[int]
) -> None:
    digest, places = workload.ask("digest"), addresses(workload)
    checkpoint(call, workload)
    other = other_node(node)
    move(other)
    call("node", other.path)
    resume(call, workload, *pairs(node, other, order))
    assert workload.ask("digest") == digest
    assert addresses(workload) == places
    assert workload.ask("uuids").split() == [other.uuids[i] for i in order]
    assert other.used(0) == other.used(1) == 65536
    assert node.used(0) == 0


def test_one_gpu_of_several(start: Start, call: Caller, node: build.Node, move: Move) -> None:
    """The map still names all GPUs of both nodes."""
    workload = start(GPUS="1")
    checkpoint(call, workload)
    other = other_node(node)
    move(other)
    call("node", other.path)
    assert call("restore", workload.pid, pairs(node, other, [1, 0])[1]) == INVALID_VALUE
    resume(call, workload, *pairs(node, other, [1, 0]))
    assert workload.ask("uuids") == other.uuids[0]
    assert other.used(0) == 65536
    assert other.used(1) == 0


WRONG = {
    "none": lambda old, new: [],
    "one missing": lambda old, new: pairs(old, new, [0, 1])[:1],
    "one too many": lambda old, new: [*pairs(old, new, [0, 1]), f"{new.uuids[0]}={old.uuids[0]}"],
    "twice onto one": lambda old, new: pairs(old, new, [0, 0]),
    "twice from one": lambda old, new: [f"{old.uuids[0]}={to}" for to in new.uuids],
    "unknown before": lambda old, new: pairs(new, new, [0, 1]),
    "unknown now": lambda old, new: pairs(old, old, [0, 1]),
    "reversed": lambda old, new: pairs(new, old, [0, 1]),
}


def test_wrong_maps(start: Start, call: Caller, node: build.Node, move: Move) -> None:
    """Refused although the process has but the first GPU, after which the right one works."""
    workload = start(CUDA_VISIBLE_DEVICES="0")
    checkpoint(call, workload)
    other = other_node(node)
    move(other)
    call("node", other.path)
    codes = {
        what: call("restore", workload.pid, *wrong(node, other)) for what, wrong in WRONG.items()
    }
    assert codes == dict.fromkeys(WRONG, INVALID_VALUE)
    assert call.state(workload.pid) == CHECKPOINTED
    resume(call, workload, *pairs(node, other, [0, 1]))


def test_another_number_of_gpus(
    workload: Workload, call: Caller, node: build.Node, move: Move
) -> None:
    checkpoint(call, workload)
    other = other_node(node, 3)
    move(other)
    call("node", other.path)
    assert call("restore", workload.pid, *pairs(node, other, [0, 1])) == INVALID_VALUE


def test_another_chip(workload: Workload, call: Caller, node: build.Node, move: Move) -> None:
    checkpoint(call, workload)
    gpus = [build.Gpu(minor=i, uuid=build.gpu_uuid(f"x{i}"), model="NVIDIA L4") for i in range(2)]
    other = other_node(node, gpus)
    move(other)
    call("node", other.path)
    assert call("restore", workload.pid, *pairs(node, other, [0, 1])) == INVALID_VALUE
    assert call.state(workload.pid) == CHECKPOINTED


@pytest.mark.parametrize("full", [0, 1])
def test_too_little_memory(start: Start, call: Caller, node: build.Node, full: int) -> None:
    """One GPU has room, the other none: nothing stays behind, and a later try succeeds."""
    workload = start(BYTES=str(640 << 10))
    digest = workload.ask("digest")
    checkpoint(call, workload)
    other = start(GPUS=str(full), BYTES=str(640 << 10))
    assert call("restore", workload.pid) == OUT_OF_MEMORY
    assert call.state(workload.pid) == CHECKPOINTED
    assert node.used(1 - full) == 0
    other.end()
    resume(call, workload)
    assert workload.ask("digest") == digest


def test_an_older_driver_knows_no_maps(workload: Workload, call: Caller, node: build.Node) -> None:
    node.api = 12080
    node.write()
    checkpoint(call, workload)
    assert call("restore", workload.pid, *pairs(node, node, [1, 0])) == INVALID_VALUE
    resume(call, workload)


def test_a_driver_without_the_api(workload: Workload, call: Caller, node: build.Node) -> None:
    node.api = 12070
    node.write()
    assert call("lock", workload.pid, 100) == NOT_SUPPORTED


# ---- what the driver cannot checkpoint ----


@pytest.mark.parametrize(
    ("kind", "driver", "code"),
    [
        ("share", "580.65.06", NOT_SUPPORTED),
        ("share", "610.10", 0),
        ("managed", "580.65.06", NOT_SUPPORTED),
        ("managed", "610.10", NOT_SUPPORTED),
    ],
)
def test_unsupported_memory(
    workload: Workload, call: Caller, node: build.Node, kind: str, driver: str, code: int
) -> None:
    node.driver = driver
    node.write()
    workload.ask(kind)
    assert call("lock", workload.pid, 2000) == 0
    assert call("checkpoint", workload.pid) == code
    if code:
        assert call.state(workload.pid) == LOCKED
        assert call("unlock", workload.pid) == 0
        assert workload.ask("digest")


# ---- injected failures ----


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("how", ["", " after", " failed"])
def test_injected(
    workload: Workload, call: Caller, node: build.Node, operation: str, how: str
) -> None:
    """Before the operation, after it, or with the process in the state "failed"."""
    (name, *words), state = CALLS[operation]
    for step, *rest in STEPS[state]:
        assert call(step, workload.pid, *rest) == 0
    if operation == "unlock":
        assert call("checkpoint", workload.pid) == call("restore", workload.pid) == 0
    node.fail(f"{operation} 304 1{how}")
    assert call(name, workload.pid, *words) == OPERATING_SYSTEM
    assert node.pending() == []
    reached = {"lock": LOCKED, "checkpoint": CHECKPOINTED, "restore": LOCKED, "unlock": RUNNING}
    expected = {"": state, " after": reached[operation], " failed": FAILED}[how]
    assert call.state(workload.pid) == expected
    if how == " failed":
        assert call("unlock", workload.pid) == call("restore", workload.pid) == ILLEGAL_STATE
        assert f"CUDA error {UNKNOWN}" in workload.ask("digest")


def test_failures_are_counted_and_chosen(start: Start, call: Caller, node: build.Node) -> None:
    first, second = start(GPUS="0"), start(GPUS="1")
    node.fail(f"lock 2 2 pid={second.pid}", "# a comment", "checkpoint 999")
    assert call("lock", first.pid, 2000) == 0
    assert call("lock", second.pid, 2000) == OUT_OF_MEMORY
    assert node.pending() == [f"lock 2 1 pid={second.pid}", "# a comment", "checkpoint 999"]
    assert call("lock", second.pid, 2000) == OUT_OF_MEMORY
    assert call("lock", second.pid, 2000) == 0
    assert call("checkpoint", first.pid) == call("checkpoint", second.pid) == UNKNOWN
    assert node.pending() == ["# a comment", "checkpoint 999"]


@pytest.mark.parametrize("operation", ["thread", "state"])
def test_failing_questions(
    workload: Workload, call: Caller, node: build.Node, operation: str
) -> None:
    node.fail(f"{operation} 999 1")
    assert call(operation, workload.pid) == UNKNOWN
    assert call(operation, workload.pid) == 0


def test_a_hang_takes_its_time(workload: Workload, call: Caller, node: build.Node) -> None:
    node.fail("hang lock 0.3 1", "lock 600 1")
    begun = time.monotonic()
    assert call("lock", workload.pid, 2000) == NOT_READY
    assert 0.3 <= time.monotonic() - begun < 3


def test_failing_calls_of_the_workload(workload: Workload, node: build.Node) -> None:
    node.fail("copy 999 1")
    assert workload.ask("digest") == f"error: cuMemcpyDtoH_v2: CUDA error {UNKNOWN}"
    assert len(workload.ask("digest")) == 129


@pytest.mark.parametrize("gpus", [0, 1])
def test_failing_initialisation(libraries: pathlib.Path, tmp_path: pathlib.Path, gpus: int) -> None:
    """No GPU, or an error of the driver."""
    node = build.Node(tmp_path / "node", gpus)
    node.fail("init 999 1" if gpus else "# nothing")
    caller = Caller({"PATH": os.environ["PATH"], **node.environment(libraries)})
    assert caller("init") == (UNKNOWN if gpus else NO_DEVICE)
    caller.close()


# ---- which GPUs a process sees ----


@contextlib.contextmanager
def own_dev(tmp_path: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """A /dev of the workload's own: its directory, and what goes before the command."""
    directory = tmp_path / "dev"
    directory.mkdir()
    mount = f'mount --bind "{directory}" /dev && exec "$@"'
    yield directory, [*namespaced("--mount"), "sh", "-c", mount, "sh"]


def nvidia(workload: Workload) -> list[str]:
    return sorted(path for path in workload.files() if path.startswith("/dev/nvidia"))


def test_device_files_decide(
    start: Start, call: Caller, node: build.Node, tmp_path: pathlib.Path
) -> None:
    with own_dev(tmp_path) as (directory, before):
        node.device_files(directory, [1])
        workload = start(*before)
        held = ["/dev/nvidia-uvm", "/dev/nvidia1", "/dev/nvidiactl"]
        assert workload.ask("uuids") == node.uuids[1]
        assert nvidia(workload) == held
        checkpoint(call, workload)
        assert nvidia(workload) == []
        resume(call, workload)
        assert nvidia(workload) == held
        assert workload.ask("uuids") == node.uuids[1]


def test_the_new_gpu_needs_its_file(
    start: Start, call: Caller, node: build.Node, tmp_path: pathlib.Path
) -> None:
    """The process comes back on another GPU only where its container has that one's file."""
    with own_dev(tmp_path) as (directory, before):
        node.device_files(directory, [1])
        workload = start(*before)
        digest = workload.ask("digest")
        checkpoint(call, workload)
        swap = pairs(node, node, [1, 0])
        assert call("restore", workload.pid, *swap) == OPERATING_SYSTEM
        assert call.state(workload.pid) == CHECKPOINTED
        (directory / "nvidia1").rename(directory / "nvidia0")
        resume(call, workload, *swap)
        assert workload.ask("uuids") == node.uuids[0]
        assert workload.ask("digest") == digest


@pytest.mark.parametrize("wish", ["1", "{uuid}", "1,7,0", "1,-1"])
def test_visible_devices(start: Start, node: build.Node, wish: str) -> None:
    workload = start(CUDA_VISIBLE_DEVICES=wish.format(uuid=node.uuids[1]))
    assert workload.ask("uuids") == node.uuids[1]


def test_http(workload: Workload) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{workload.port}/add/1", timeout=10) as response:
        assert response.read().decode().strip() == workload.ask("digest")


def test_the_memory_is_seeded(start: Start, workload: Workload) -> None:
    assert start().ask("digest") == workload.ask("digest") != start(SEED="1").ask("digest")


# ---- NVIDIA's bindings ----

BINDINGS = """
import json, os, ctypes
from cuda.bindings import driver

def call(name, *arguments):
    code, *values = getattr(driver, name)(*arguments)
    return [code.name, *map(int, values)]

def uuid(text):
    raw = ctypes.create_string_buffer(bytes.fromhex(text[4:].replace("-", "")), 16)
    keep.append(raw)
    return driver.CUuuid(ctypes.addressof(raw))

keep = []
pid = os.getpid()
answers = [call("cuInit", 0), call("cuDriverGetVersion"), call("cuDeviceGetCount")]
_, context = driver.cuDevicePrimaryCtxRetain(0)
answers.append(call("cuCtxSetCurrent", context))
_, address = driver.cuMemAlloc(4096)
driver.cuMemcpyHtoD(address, bytes(range(256)) * 16, 4096)
answers.append(call("cuCheckpointProcessGetRestoreThreadId", pid)[:1])
answers.append(call("cuCheckpointProcessRestore", pid, None))
lock = driver.CUcheckpointLockArgs()
lock.timeoutMs = 1000
answers.append(call("cuCheckpointProcessLock", pid, lock))
answers.append(call("cuCheckpointProcessCheckpoint", pid, driver.CUcheckpointCheckpointArgs()))
answers.append(call("cuCheckpointProcessGetState", pid))
uuids = json.loads(os.environ["UUIDS"])
pairs = []
for old, new in zip(uuids, reversed(uuids)):
    pair = driver.CUcheckpointGpuPair()
    pair.oldUuid, pair.newUuid = uuid(old), uuid(new)
    pairs.append(pair)
restore = driver.CUcheckpointRestoreArgs()
restore.gpuPairs, restore.gpuPairsCount = pairs, len(pairs)
answers.append(call("cuCheckpointProcessRestore", pid, restore))
answers.append(call("cuCheckpointProcessUnlock", pid, driver.CUcheckpointUnlockArgs()))
back = bytearray(4096)
driver.cuMemcpyDtoH(back, address, 4096)
answers.append(back == bytes(range(256)) * 16)
answers.append(driver.cuDeviceGetUuid(0)[1].bytes.hex())
answers.append(driver.cuGetErrorName(driver.CUresult(401))[1].decode())
answers.append(driver.cuGetErrorString(driver.CUresult(2))[1].decode())
print(json.dumps(answers))
"""


def test_cuda_bindings(libraries: pathlib.Path, node: build.Node) -> None:
    environment = {**node.environment(libraries), "UUIDS": json.dumps(node.uuids)}
    success = ["CUDA_SUCCESS"]
    assert answered(BINDINGS, environment) == [
        success,
        [*success, 13000],
        [*success, 2],
        success,
        success,
        ["CUDA_ERROR_ILLEGAL_STATE"],
        success,
        success,
        [*success, 2],
        success,
        success,
        True,
        node.uuids[1].removeprefix("GPU-").replace("-", ""),
        "CUDA_ERROR_ILLEGAL_STATE",
        "out of memory",
    ]


SYMBOLS = """
import ctypes, json
library = ctypes.CDLL("libcuda.so.1")
answers = {}
for name, version in [
    ("cuCheckpointProcessLock", 13000), ("cuCheckpointProcessLock", 12000),
    ("cuMemAlloc", 13000), ("cuNothing", 13000),
]:
    found, status = ctypes.c_void_p(), ctypes.c_int()
    code = library.cuGetProcAddress_v2(
        name.encode(), ctypes.byref(found), version, ctypes.c_uint64(0), ctypes.byref(status)
    )
    answers[f"{name} {version}"] = [code, status.value, bool(found.value)]
print(json.dumps(answers))
"""


@pytest.mark.parametrize("api", [13000, 12070])
def test_symbols_by_version(libraries: pathlib.Path, node: build.Node, api: int) -> None:
    """A driver that is older than a symbol does not have it, whoever asks."""
    node.api = api
    node.write()
    there, absent, later = [0, 0, True], [500, 1, False], [500, 2, False]
    new = api >= 12080
    assert answered(SYMBOLS, node.environment(libraries)) == {
        "cuCheckpointProcessLock 13000": there if new else absent,
        "cuCheckpointProcessLock 12000": later if new else absent,
        "cuMemAlloc 13000": there,
        "cuNothing 13000": absent,
    }


NVML = """
import json
import pynvml as nvml
nvml.nvmlInit()
answers = {"driver": nvml.nvmlSystemGetDriverVersion(), "gpus": [],
    "api": nvml.nvmlSystemGetCudaDriverVersion_v2()}
for index in range(nvml.nvmlDeviceGetCount()):
    gpu = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
    second = nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2)
    assert [memory.total, memory.free, memory.used] == [second.total, second.free, second.used]
    try:
        mig = nvml.nvmlDeviceGetMigMode(gpu)
    except nvml.NVMLError as error:
        mig = str(error)
    answers["gpus"].append({
        "name": nvml.nvmlDeviceGetName(gpu), "uuid": nvml.nvmlDeviceGetUUID(gpu),
        "minor": nvml.nvmlDeviceGetMinorNumber(gpu), "total": memory.total, "free": memory.free,
        "capability": nvml.nvmlDeviceGetCudaComputeCapability(gpu), "mig": mig,
        "persistence": nvml.nvmlDeviceGetPersistenceMode(gpu),
        "bus": nvml.nvmlDeviceGetPciInfo_v3(gpu).busId,
        "processes": [[p.pid, p.usedGpuMemory]
            for p in nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)],
    })
    again = nvml.nvmlDeviceGetHandleByUUID(nvml.nvmlDeviceGetUUID(gpu))
    assert nvml.nvmlDeviceGetIndex(again) == index
nvml.nvmlShutdown()
try:
    nvml.nvmlDeviceGetCount()
except nvml.NVMLError as error:
    answers["after"] = str(error)
print(json.dumps(answers))
"""


def test_nvml(libraries: pathlib.Path, node: build.Node) -> None:
    first, second = node.gpus
    node.gpus = [
        build.Gpu(minor=7, uuid=second.uuid, mig="1"),
        build.Gpu(minor=3, uuid=first.uuid, mig="-", model="Tesla T4", capability="7.5"),
    ]
    node.persistence = False
    node.write()
    assert answered(NVML, node.environment(libraries)) == {
        "driver": "580.65.06",
        "api": 13000,
        "after": "Uninitialized",
        "gpus": [
            {
                "name": "Tesla T4",
                "uuid": first.uuid,
                "minor": 3,
                "total": 1 << 20,
                "free": 1 << 20,
                "capability": [7, 5],
                "mig": "Not Supported",
                "persistence": 0,
                "bus": f"00000000:04:{int(first.uuid[-2:], 16) & 31:02X}.0",
                "processes": [],
            },
            {
                "name": "NVIDIA H100 80GB HBM3",
                "uuid": second.uuid,
                "minor": 7,
                "total": 1 << 20,
                "free": 1 << 20,
                "capability": [9, 0],
                "mig": [1, 1],
                "persistence": 0,
                "bus": f"00000000:08:{int(second.uuid[-2:], 16) & 31:02X}.0",
                "processes": [],
            },
        ],
    }


def owners(node: build.Node, libraries: pathlib.Path) -> list[list[list[int]]]:
    answers = answered(NVML, node.environment(libraries))
    assert isinstance(answers, dict)
    for gpu in answers["gpus"]:
        assert gpu["total"] - gpu["free"] == sum(size for _, size in gpu["processes"])
    return [sorted(gpu["processes"]) for gpu in answers["gpus"]]


def test_nvml_names_owners(
    start: Start, call: Caller, node: build.Node, libraries: pathlib.Path
) -> None:
    first, second = start(GPUS="0"), start()
    assert owners(node, libraries) == [
        sorted([[first.pid, 65536], [second.pid, 65536]]),
        [[second.pid, 65536]],
    ]
    checkpoint(call, second)
    assert owners(node, libraries) == [[[first.pid, 65536]], []]


NVML_FAILS = """
import json
import pynvml
try:
    pynvml.nvmlInit()
except pynvml.NVMLError as error:
    print(json.dumps([error.value, str(error)]))
"""


def test_nvml_fails(libraries: pathlib.Path, node: build.Node) -> None:
    node.fail("nvml 18 1")
    mismatch = answered(NVML_FAILS, node.environment(libraries))
    assert mismatch == [18, "RM has detected an NVML/RM version mismatch."]
    (node.path / "node.conf").unlink()
    assert answered(NVML_FAILS, node.environment(libraries)) == [9, "Driver Not Loaded"]


# ---- with CRIU ----


def criu(libexec: pathlib.Path, *arguments: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    bundle = libexec / "criu"
    loader = [bundle / "ld.so", "--library-path", bundle / "lib", bundle / "criu"]
    return subprocess.run([*loader, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    if os.geteuid() != 0:
        pytest.skip("only root dumps processes")
    path = tmp_path / "images"
    path.mkdir()
    return path


def dump(libexec: pathlib.Path, images: pathlib.Path, workload: Workload) -> str:
    """Ends the process; returns what CRIU says when it cannot."""
    options = ["--tree", str(workload.pid), "--images-dir", images, "--shell-job"]
    done = criu(libexec, "dump", *options)
    if done.returncode == 0:
        workload.process.wait()
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.system
def test_criu_does_not_dump_a_running_process(
    workload: Workload, call: Caller, libexec: pathlib.Path, images: pathlib.Path
) -> None:
    """Device memory is nothing that CRIU can keep, as with the real driver."""
    assert call("lock", workload.pid, 2000) == 0
    assert dump(libexec, images, workload)
    assert call("unlock", workload.pid) == 0
    assert workload.ask("digest")


@pytest.mark.system
@pytest.mark.parametrize("processes", ["0", "1"])
def test_criu_restores_onto_another_node(
    start: Start,
    call: Caller,
    node: build.Node,
    move: Move,
    libexec: pathlib.Path,
    images: pathlib.Path,
    processes: str,
) -> None:
    workload = start(PROCESSES=processes, GPUS="0,1")
    owners = ranks(workload) or [workload.pid]
    before = [workload.ask(word) for word in ("digest", "pinned", "nonce", "pids")]
    for pid in owners:
        assert call("lock", pid, 2000) == call("checkpoint", pid) == 0
    assert dump(libexec, images, workload) == ""
    # Their PIDs are free once whoever inherited them has waited for them.
    wait_until(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in owners))
    other = other_node(node)
    move(other)
    call("node", other.path)
    restored = criu(libexec, "restore", "--images-dir", images, "--shell-job", "--restore-detached")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    try:
        assert [call.state(pid) for pid in owners] == [CHECKPOINTED] * len(owners)
        with workload.connect("digest") as waiting:
            waiting.settimeout(0.2)
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            for pid in owners:
                mapping = pairs(node, other, [1, 0])
                assert call("restore", pid, *mapping) == call("unlock", pid) == 0
            waiting.settimeout(10)
            assert read(waiting) == before[0]
        assert [workload.ask(word) for word in ("digest", "pinned", "nonce", "pids")] == before
        assert workload.ask("uuids").split() == other.uuids[::-1]
        assert workload.ask("add", 7) != before[0]
        checkpoint_again = [call("lock", pid, 2000) or call("checkpoint", pid) for pid in owners]
        assert checkpoint_again == [0] * len(owners)
    finally:
        os.killpg(workload.pid, signal.SIGKILL)
