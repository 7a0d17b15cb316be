"""Each step of the driver's state machine, its failures and their Reasons, on the stand-in."""

import subprocess
import time

import pytest

from chrek import errors, names
from fakes import cuda_worker, remote

R = names.Reason
OPERATIONS = {
    "lock": [5.0],
    "checkpoint": [],
    "restore": [None],
    "unlock": [],
}
STEPS = {
    "running": [],
    "locked": ["lock"],
    "checkpointed": ["lock", "checkpoint"],
    "locked again": ["lock", "checkpoint", "restore"],
}
DRIVER = "chrek.cuda.driver:Driver"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return cuda_worker.Machine(tmp_path_factory.mktemp("node") / "node")


@pytest.fixture(autouse=True)
def _nothing_fails(machine):
    yield
    machine.node.fail()


@pytest.fixture(scope="module")
def driver(machine):
    with remote.Remote(DRIVER, machine.node.environment(machine.libraries)) as driver:
        driver.init()
        yield driver


def bring(driver, pid, steps):
    for step in steps:
        getattr(driver, step)(pid, *OPERATIONS[step])


def test_a_process_goes_through_all_states(machine, driver):
    with machine.worker() as worker:
        assert driver.state(worker.pid) == "running"
        assert driver.restore_thread(worker.pid) > worker.pid
        assert machine.node.used(0) == worker.size
        driver.lock(worker.pid, 5.0)
        assert driver.state(worker.pid) == "locked"
        driver.checkpoint(worker.pid)
        assert driver.state(worker.pid) == "checkpointed"
        assert machine.node.used(0) == 0
        driver.restore(worker.pid, None)
        assert driver.state(worker.pid) == "locked"
        assert machine.node.used(0) == worker.size
        driver.unlock(worker.pid)
        assert driver.state(worker.pid) == "running"
        assert worker.intact()


@pytest.mark.parametrize("state", STEPS)
@pytest.mark.parametrize(
    ("operation", "allowed", "reason"),
    [
        ("lock", "running", R.GPU_CHECKPOINT_FAILED),
        ("checkpoint", "locked", R.GPU_CHECKPOINT_FAILED),
        ("restore", "checkpointed", R.GPU_RESTORE_FAILED),
        ("unlock", "locked", R.GPU_RESTORE_FAILED),
    ],
)
def test_a_step_in_another_state_is_refused(machine, driver, state, operation, allowed, reason):
    with machine.worker() as worker:
        bring(driver, worker.pid, STEPS[state])
        before = driver.state(worker.pid)
        if before == allowed:
            bring(driver, worker.pid, [operation])
            return
        with pytest.raises(errors.GpuError) as caught:
            bring(driver, worker.pid, [operation])
        assert caught.value.code == "CUDA_ERROR_ILLEGAL_STATE"
        assert caught.value.reason == reason
        assert caught.value.message == (
            f"CUDA {operation} of process {worker.pid} failed with CUDA_ERROR_ILLEGAL_STATE"
        )
        assert driver.state(worker.pid) == before


FAILURES = [
    ("lock", 600, "NOT_READY", R.GPU_LOCK_TIMEOUT, "took more than 5 seconds"),
    ("lock", 801, "NOT_SUPPORTED", R.GPU_STATE_UNSUPPORTED, "IPC"),
    ("lock", 304, "OPERATING_SYSTEM", R.GPU_CHECKPOINT_FAILED, None),
    ("lock", 999, "UNKNOWN", R.GPU_CHECKPOINT_FAILED, None),
    ("checkpoint", 2, "OUT_OF_MEMORY", R.INSUFFICIENT_HOST_MEMORY, "resources.limits.memory"),
    ("checkpoint", 801, "NOT_SUPPORTED", R.GPU_STATE_UNSUPPORTED, "managed"),
    ("checkpoint", 999, "UNKNOWN", R.GPU_CHECKPOINT_FAILED, None),
    ("restore", 1, "INVALID_VALUE", R.GPU_RESTORE_FAILED, "as many as at the capture"),
    ("restore", 2, "OUT_OF_MEMORY", R.GPU_MEMORY_TOO_SMALL, "nvidia-smi"),
    ("restore", 801, "NOT_SUPPORTED", R.GPU_STATE_UNSUPPORTED, "IPC"),
    ("restore", 999, "UNKNOWN", R.GPU_RESTORE_FAILED, None),
    ("unlock", 304, "OPERATING_SYSTEM", R.GPU_RESTORE_FAILED, None),
    ("state", 3, "NOT_INITIALIZED", R.GPU_UNAVAILABLE, None),
    ("thread", 999, "UNKNOWN", R.GPU_UNAVAILABLE, None),
]


@pytest.mark.parametrize(
    ("operation", "number", "code", "reason", "hint"),
    FAILURES,
    ids=[f"{failure[0]}-{failure[2]}" for failure in FAILURES],
)
def test_failures_of_the_driver(machine, driver, operation, number, code, reason, hint):
    with machine.worker() as worker:
        before = {"checkpoint": 1, "restore": 2, "unlock": 1}.get(operation, 0)
        bring(driver, worker.pid, ["lock", "checkpoint"][:before])
        machine.node.fail(f"{operation} {number} 1")
        method = {"thread": "restore_thread"}.get(operation, operation)
        with pytest.raises(errors.GpuError, match=f"failed with CUDA_ERROR_{code}") as caught:
            getattr(driver, method)(worker.pid, *OPERATIONS.get(operation, []))
        assert machine.node.pending() == []
        assert caught.value.code == f"CUDA_ERROR_{code}"
        assert caught.value.reason == reason
        assert (hint or "") in (caught.value.hint or "")
        assert bool(hint) == bool(caught.value.hint)
        # The next time it works.
        getattr(driver, method)(worker.pid, *OPERATIONS.get(operation, []))


def test_a_failure_without_a_name(machine, driver):
    with machine.worker() as worker:
        machine.node.fail("lock 54321 1")
        with pytest.raises(
            errors.GpuError, match=r"CUDA lock of process \d+ failed: 54321 "
        ) as err:
            driver.lock(worker.pid, 1.0)
        assert (err.value.code, err.value.reason) == ("", R.GPU_CHECKPOINT_FAILED)


def test_processes_without_cuda_and_processes_that_are_gone(machine, driver):
    with subprocess.Popen(["sleep", "60"]) as other:
        assert driver.restore_thread(other.pid) is None
        with pytest.raises(errors.GpuError, match="CUDA_ERROR_INVALID_VALUE"):
            driver.lock(other.pid, 1.0)
        other.kill()
    with machine.worker() as worker:
        assert driver.restore_thread(worker.pid) is not None
    assert driver.restore_thread(worker.pid) is None
    with pytest.raises(errors.GpuError, match=r"of process \d+, which has ended, failed with"):
        driver.state(worker.pid)


def test_a_lock_waits_for_work_that_ends(machine, driver):
    with machine.worker() as worker:
        machine.node.fail("hang synchronize 0.5 1")
        worker.tell("synchronize")
        assert worker.ask("uuid") == "synchronizing"
        driver.lock(worker.pid, 10.0)
        driver.unlock(worker.pid)


def test_a_lock_runs_out_of_time(machine, driver):
    with machine.worker() as worker:
        machine.node.fail("hang synchronize 60")
        assert worker.ask("synchronize") == "synchronizing"
        while not machine.node.pending():
            time.sleep(0.01)
        time.sleep(0.1)
        begin = time.monotonic()
        with pytest.raises(errors.GpuError) as caught:
            driver.lock(worker.pid, 0.2)
        assert 0.2 <= time.monotonic() - begin < 5
        assert (caught.value.code, caught.value.reason) == (
            "CUDA_ERROR_NOT_READY",
            R.GPU_LOCK_TIMEOUT,
        )
        assert "took more than 0.2 seconds" in caught.value.hint
        assert driver.state(worker.pid) == "running"
        machine.node.fail()
        assert worker.ask("uuid") == "synchronized"


def test_no_time_for_a_lock_is_not_all_time(machine, driver):
    """0 is no limit to the driver."""
    with machine.worker() as worker:
        machine.node.fail("hang synchronize 60")
        assert worker.ask("synchronize") == "synchronizing"
        time.sleep(0.2)
        with pytest.raises(errors.GpuError, match="CUDA_ERROR_NOT_READY"):
            driver.lock(worker.pid, 0)
        machine.node.fail()


def test_memory_that_cannot_be_checkpointed(machine, driver):
    with machine.worker() as worker:
        worker.ask("managed")
        driver.lock(worker.pid, 5.0)
        with pytest.raises(errors.GpuError) as caught:
            driver.checkpoint(worker.pid)
        assert caught.value.reason == R.GPU_STATE_UNSUPPORTED
        assert driver.state(worker.pid) == "locked"
        driver.unlock(worker.pid)
        assert worker.intact()


# -- other GPUs


def raw(uuid):
    return uuid.removeprefix("GPU-").replace("-", "")


def test_a_restore_onto_the_other_gpu(machine, driver):
    zero, one = machine.node.uuids
    with machine.worker() as worker:
        assert worker.ask("uuid") == raw(zero)
        bring(driver, worker.pid, ["lock", "checkpoint"])
        driver.restore(worker.pid, {zero: one, one: zero})
        driver.unlock(worker.pid)
        assert (machine.node.used(0), machine.node.used(1)) == (0, worker.size)
        assert worker.ask("uuid") == raw(one)
        assert worker.intact()


def test_a_map_that_does_not_name_all_gpus(machine, driver):
    zero, one = machine.node.uuids
    with machine.worker() as worker:
        bring(driver, worker.pid, ["lock", "checkpoint"])
        with pytest.raises(errors.GpuError) as caught:
            driver.restore(worker.pid, {zero: one})
        assert caught.value.code == "CUDA_ERROR_INVALID_VALUE"
        assert caught.value.reason == R.GPU_RESTORE_FAILED
        assert driver.state(worker.pid) == "checkpointed"


@pytest.mark.parametrize("uuid", ["", "GPU-", "MIG-81345ab9", "GPU-81345ab9", "GPU-" + "x" * 32])
def test_what_is_no_uuid(driver, machine, uuid):
    with pytest.raises(errors.GpuError, match=f"'{uuid}' is not the UUID of a GPU"):
        driver.restore(1, {machine.node.uuids[0]: uuid})


def test_an_older_driver_restores_onto_the_same_gpus_only(tmp_path):
    machine = cuda_worker.Machine(tmp_path / "node", api=12090, driver="575.1")
    zero, one = machine.node.uuids
    with (
        remote.Remote(DRIVER, machine.node.environment(machine.libraries)) as driver,
        machine.worker() as worker,
    ):
        driver.init()
        bring(driver, worker.pid, ["lock", "checkpoint"])
        with pytest.raises(errors.GpuError, match=r"has the API of CUDA 12\.9, which") as caught:
            driver.restore(worker.pid, {zero: one, one: zero})
        assert caught.value.reason == R.GPU_DRIVER_TOO_OLD
        assert "580" in caught.value.hint
        bring(driver, worker.pid, ["restore", "unlock"])
        assert worker.intact()


# -- no driver that can be used


@pytest.mark.parametrize(
    ("number", "code"), [(100, "NO_DEVICE"), (304, "OPERATING_SYSTEM"), (803, "SYSTEM_DRIVER_MISM")]
)
def test_a_driver_that_cannot_be_initialised(machine, number, code):
    machine.node.fail(f"init {number}")
    with remote.Remote(DRIVER, machine.node.environment(machine.libraries)) as driver:
        with pytest.raises(errors.GpuError, match=f"initialisation failed .*{code}") as caught:
            driver.init()
        assert caught.value.code.startswith(f"CUDA_ERROR_{code}")
        assert caught.value.reason == R.GPU_UNAVAILABLE
        assert "nvidia-smi" in caught.value.hint
        assert driver.version() == 13000
        with pytest.raises(errors.GpuError, match="CUDA_ERROR_NOT_INITIALIZED"):
            driver.state(1)


def test_a_driver_that_is_too_old(tmp_path):
    machine = cuda_worker.Machine(tmp_path / "node", api=12040, driver="550.1")
    with remote.Remote(DRIVER, machine.node.environment(machine.libraries)) as driver:
        assert driver.version() == 12040
        with pytest.raises(errors.GpuError, match=r"has the API of CUDA 12\.4") as caught:
            driver.init()
        assert (caught.value.reason, caught.value.hint) == (
            R.GPU_DRIVER_TOO_OLD,
            "use NVIDIA driver 580 or later on this node",
        )


OLD = """
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long flags, int *s)
{
    extern int strcmp(const char *, const char *);
    *found = strcmp(name, "cuInit") == 0 ? (void *)cuInit :
             strcmp(name, "cuDriverGetVersion") == 0 ? (void *)cuDriverGetVersion : 0;
    if (s)
        *s = *found ? 0 : 1;
    return *found ? 0 : 500;
}
"""


def compiled(directory, source):
    (directory / "old.c").write_text(source)
    subprocess.run(
        ["gcc", "-w", "-shared", "-fPIC", "-o", directory / "libcuda.so.1", directory / "old.c"],
        check=True,
    )
    return {"LD_LIBRARY_PATH": str(directory)}


def test_a_driver_without_the_functions(tmp_path):
    with remote.Remote(DRIVER, compiled(tmp_path, OLD)) as driver:
        driver.init()
        with pytest.raises(errors.GpuError, match="has no cuCheckpointProcessLock: ") as caught:
            driver.lock(1, 1.0)
        assert caught.value.reason == R.GPU_DRIVER_TOO_OLD


def test_a_library_of_another_kind(tmp_path):
    with remote.Remote(
        DRIVER, compiled(tmp_path, "int cuInit(unsigned f) { return 0; }")
    ) as driver:
        with pytest.raises(errors.GpuError, match="the CUDA driver has no ") as caught:
            driver.init()
        assert caught.value.reason == R.GPU_DRIVER_TOO_OLD


UNKNOWN = OLD.replace(
    "int cuGetProcAddress_v2",
    "int cuCheckpointProcessGetState(int pid, int *state) { *state = pid; return 0; }\n"
    "int cuGetProcAddress_v2",
).replace(": 0;", ': strcmp(name, "cuCheckpointProcessGetState") == 0 ? '
          "(void *)cuCheckpointProcessGetState : 0;", 1)  # fmt: skip


def test_states_that_are_not_ours(tmp_path):
    with remote.Remote(DRIVER, compiled(tmp_path, UNKNOWN)) as driver:
        assert [driver.state(n) for n in range(4)] == [
            *("running", "locked", "checkpointed", "failed")
        ]
        with pytest.raises(errors.GpuError, match=r"of process 4 is CU_PROCESS_STATE_\w+ING") as on:
            driver.state(4)
        assert "another program" in on.value.hint
        with pytest.raises(errors.GpuError, match="state of process 77 failed: 77 is not a valid"):
            driver.state(77)


def test_no_library_at_all(tmp_path):
    (tmp_path / "libcuda.so.1").write_bytes(b"")
    with (
        remote.Remote(DRIVER, {"LD_LIBRARY_PATH": str(tmp_path)}) as driver,
        pytest.raises(errors.GpuError) as caught,
    ):
        driver.init()
    assert caught.value.message.startswith("libcuda.so.1 cannot be loaded: ")
    assert caught.value.reason == R.GPU_UNAVAILABLE
