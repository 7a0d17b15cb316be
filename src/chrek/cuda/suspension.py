"""The GPU memory of several processes brought into their own memory, and back: all, or none.

A process whose CUDA stays locked waits for ever in its next call of it. So after any failure every
process that lives is brought back to running, whatever had become of it: the driver is asked, as
nobody else knows how a call ended whose answer did not come. For those that the driver does not let
go on there is `on_stuck`; the caller must end them.

Source: CUDA driver API 13.5, "CUDA Checkpointing": the state that each function needs and leaves; a
lock that ran out of time leaves the process running. NVIDIA/cuda-checkpoint#44: with driver 580 a
process stays checkpointed for good once a restore of it ran out of memory.
"""

from __future__ import annotations

import contextlib
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence

from chrek import errors, log, names
from chrek.cuda import recovery, words

_MARGIN_SECONDS = 1.0
_DOCUMENT = "see docs/gpu.md"

OnStuck = Callable[[Sequence[recovery.Process]], object]


class Suspension:
    """Processes whose GPU memory is in their own memory; leaving its context they go on.

    Attributes:
        processes: those that use CUDA.
        stuck: those that could not go on and live; known after `resume`.
    """

    def __init__(
        self,
        helper: recovery.Helper,
        processes: Sequence[recovery.Process],
        *,
        logger: log.Logger,
        seconds: dict[str, float],
        on_stuck: OnStuck,
    ) -> None:
        self.processes = tuple(processes)
        self.stuck: tuple[recovery.Process, ...] = ()
        self._helper = helper
        self._logger = logger
        self._seconds = seconds
        self._on_stuck = on_stuck
        self._unsettled: dict[recovery.Process, float] = {}
        self._over = False

    @classmethod
    def begin(
        cls,
        helper: recovery.Helper,
        pids: Sequence[int],
        *,
        lock_timeout_seconds: float,
        logger: log.Logger,
        seconds: dict[str, float],
        usage: Sequence[words.Usage] = (),
        on_stuck: OnStuck = lambda _: None,
    ) -> Suspension:
        """Lock and checkpoint those of some processes that use CUDA, each step all at once.

        One that ended before it was locked is left out. One that somebody left locked or
        checkpointed before is brought back first.

        Args:
            pids: as the host counts.
            lock_timeout_seconds: how long work that is on the GPUs may take to end.
            seconds: gets `gpu_lock` and `gpu_checkpoint`; after a failure and from `resume` also
                `gpu_restore` and `gpu_unlock`.
            usage: where `Process.bytes` comes from.
            on_stuck: called with the processes that live and cannot go on.

        Raises:
            GpuError: one of them could not be suspended; all that live run again, but those that
                `on_stuck` got.
        """
        processes = recovery.find(helper, pids, usage)
        made = cls(helper, processes, logger=logger, seconds=seconds, on_stuck=on_stuck)
        try:
            with recovery.uninterrupted():
                made._check()
            with recovery.uninterrupted():
                made._lock(max(lock_timeout_seconds, 0.001))
            with recovery.uninterrupted():
                made._checkpoint()
        except BaseException:
            with recovery.uninterrupted():
                made._go_on()
            raise
        return made

    @property
    def bytes(self) -> int:
        """Device memory of all of them."""
        return sum(process.bytes for process in self.processes)

    def resume(self) -> None:
        """Restore and unlock all that live; once, however often it is called.

        Raises:
            GpuError: at least one cannot go on. `on_stuck` was called.
        """
        if self._over:
            return
        with recovery.uninterrupted():
            failed = self._go_on()
        if failed:
            raise _failed(
                failed,
                "cannot go on",
                names.Reason.GPU_RESTORE_FAILED,
                "its calls of CUDA wait for ever: it must be ended",
            )

    def __enter__(self) -> Suspension:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        # What went wrong first is what counts; the rest is in the log, and `on_stuck` knows.
        try:
            self.resume()
        except errors.GpuError:
            if error is None:
                raise

    def _check(self) -> None:
        """Bring back what an agent, which was killed, has left."""
        left: dict[recovery.Process, words.State] = {}

        def ask(process: recovery.Process) -> None:
            state = self._helper.state(process.pid)
            if state != words.State.RUNNING:
                left[process] = state

        failed = recovery.living(recovery.each(ask, self.processes))
        if failed:
            raise _failed(failed, "the state of its CUDA is not known")
        for process, state in left.items():
            self._logger.warning("gpu process was left", pid=process.nspid, state=str(state))
        stuck = recovery.bring_back(self._helper, list(left), {}, self._logger)
        if stuck:
            raise _failed(stuck, "was not running before", names.Reason.GPU_CHECKPOINT_FAILED)

    def _lock(self, timeout_seconds: float) -> None:
        until = time.monotonic() + timeout_seconds + _MARGIN_SECONDS

        def lock(process: recovery.Process) -> None:
            with self._noting(process, until):
                self._helper.lock(process.pid, timeout_seconds)

        with self._logger.step("gpu_lock", self._seconds):
            failed = recovery.living(recovery.each(lock, self.processes))
        self.processes = tuple(process for process in self.processes if process.lives())
        late = _of_code(failed, "CUDA_ERROR_NOT_READY")
        unsupported = _of_code(failed, "CUDA_ERROR_NOT_SUPPORTED")
        if late:
            raise _failed(
                late,
                f"its work on the GPU did not end within {timeout_seconds:g} seconds",
                names.Reason.GPU_LOCK_TIMEOUT,
                "a stream waits for the host, or a collective of NCCL is under way: have the "
                f"engine quiesce first, {_DOCUMENT}",
            )
        if unsupported:
            raise _unsupported(unsupported, "the driver cannot lock its CUDA")
        if failed:
            raise _failed(failed, "CUDA was not locked", names.Reason.GPU_CHECKPOINT_FAILED)

    def _checkpoint(self) -> None:
        def checkpoint(process: recovery.Process) -> None:
            with self._noting(process, 0.0):
                self._helper.checkpoint(process.pid)

        with self._logger.step("gpu_checkpoint", self._seconds):
            failed = recovery.each(checkpoint, self.processes)
        alive = recovery.living(failed)
        # Not only those whose call failed: the rest of the tree would be captured without it.
        if ended := {p: failed.get(p) for p in self.processes if p not in alive and not p.lives()}:
            raise _failed(
                *(ended, "it ended while its GPU memory went into host memory"),
                names.Reason.GPU_CHECKPOINT_FAILED,
                "if it was killed for want of memory, raise resources.limits.memory",
            )
        if unsupported := _of_code(failed, "CUDA_ERROR_NOT_SUPPORTED"):
            raise _unsupported(unsupported, "the driver cannot checkpoint what its CUDA uses")
        if full := _of_code(failed, "CUDA_ERROR_OUT_OF_MEMORY"):
            raise _failed(
                full,
                f"no host memory for {_gibibytes(full)} of GPU memory",
                names.Reason.INSUFFICIENT_HOST_MEMORY,
                "raise resources.limits.memory, or take a node with more",
            )
        if failed:
            raise _failed(
                failed,
                "GPU memory was not checkpointed",
                names.Reason.GPU_CHECKPOINT_FAILED,
                "the driver's own words are in the node's kernel log, with NVRM in front",
            )

    @contextlib.contextmanager
    def _noting(self, process: recovery.Process, lockable_until: float) -> Iterator[None]:
        """Note that a call had no answer of the driver's, and until when it may still lock."""
        try:
            yield
        except Exception as err:
            if not recovery.code(err):
                self._unsettled[process] = lockable_until
            raise

    def _go_on(self) -> dict[recovery.Process, Exception]:
        self._over = True
        processes = [process for process in self.processes if process.lives()]
        failed = recovery.bring_back(
            self._helper, processes, self._unsettled, self._logger, self._seconds
        )
        self.stuck = tuple(failed)
        _report(failed, self._logger, self._on_stuck)
        return failed


def release(
    helper: recovery.Helper,
    pids: Sequence[int],
    logger: log.Logger,
    *,
    on_stuck: OnStuck = lambda _: None,
) -> tuple[recovery.Process, ...]:
    """Have processes go on that an agent, which was killed, left locked or checkpointed.

    Returns:
        Those that live and cannot go on; `on_stuck` got them, too.

    Raises:
        GpuError: the helper does not say which of them use CUDA.
    """
    with recovery.uninterrupted():
        failed = recovery.bring_back(helper, recovery.find(helper, pids, ()), {}, logger)
        _report(failed, logger, on_stuck)
        return tuple(failed)


def resume(
    helper: recovery.Helper,
    pids: Sequence[int],
    mapping: Mapping[str, str] | None,
    logger: log.Logger,
    seconds: dict[str, float],
    *,
    sizes: Mapping[int, int] | None = None,
) -> None:
    """Bring GPU memory back in processes that CRIU has restored; none goes on before all can.

    After a failure they are as they are, mostly checkpointed: the caller must end them.

    Args:
        pids: of all that used CUDA, as the host counts.
        mapping: UUID of each GPU of the capture's node -> UUID of one here; None: the same GPUs.
        seconds: gets `gpu_restore` and `gpu_unlock`.
        sizes: bytes of device memory that each pid needs, for messages.

    Raises:
        GpuError: one of them cannot go on.
    """
    found = [(pid, recovery.look_up(pid, (sizes or {}).get(pid, 0))) for pid in pids]
    if gone := [pid for pid, process in found if process is None]:
        raise errors.GpuError(
            f"process {gone[0]} of the host ended before its GPU memory was back",
            reason=names.Reason.GPU_RESTORE_FAILED,
        )
    processes = [process for _, process in found if process is not None]
    with logger.step("gpu_restore", seconds):
        _restore(helper, processes, mapping)
    with logger.step("gpu_unlock", seconds):
        failed = recovery.each(lambda process: helper.unlock(process.pid), processes)
    if failed:
        raise _failed(failed, "CUDA was not unlocked", names.Reason.GPU_RESTORE_FAILED)


def _restore(
    helper: recovery.Helper,
    processes: Sequence[recovery.Process],
    mapping: Mapping[str, str] | None,
) -> None:
    def restore(process: recovery.Process) -> None:
        state = helper.state(process.pid)
        if state != words.State.CHECKPOINTED:
            raise errors.GpuError(
                f"its CUDA is {state}, not checkpointed", reason=names.Reason.GPU_RESTORE_FAILED
            )
        helper.restore(process.pid, mapping)

    failed = recovery.each(restore, processes)
    if full := _of_code(failed, "CUDA_ERROR_OUT_OF_MEMORY"):
        raise _failed(
            full,
            f"the GPU has no room for {_gibibytes(full)}",
            names.Reason.GPU_MEMORY_TOO_SMALL,
            "somebody else uses it: nvidia-smi on the node shows who",
        )
    if wrong := _of_code(failed, "CUDA_ERROR_INVALID_VALUE"):
        raise _failed(
            wrong,
            "the driver cannot bring its GPU memory to the GPUs of this node",
            names.Reason.GPU_RESTORE_FAILED,
            f"{len(mapping or {})} GPUs are mapped; the chips must be the same, {_DOCUMENT}",
        )
    if failed:
        raise _failed(failed, "GPU memory was not restored", names.Reason.GPU_RESTORE_FAILED)


def _report(
    failed: Mapping[recovery.Process, Exception], logger: log.Logger, on_stuck: OnStuck
) -> None:
    for process, err in failed.items():
        of = logger.bind(pid=process.nspid, command=process.name)
        of.error("gpu process cannot go on", error=str(err))
    if failed:
        on_stuck(tuple(failed))


def _of_code(
    failed: Mapping[recovery.Process, Exception], code: str
) -> dict[recovery.Process, Exception]:
    return {process: err for process, err in failed.items() if recovery.code(err) == code}


def _failed(
    failed: Mapping[recovery.Process, Exception | None],
    what: str,
    reason: names.Reason | None = None,
    hint: str | None = None,
) -> errors.GpuError:
    """One error for all: the driver's first word, if it has said any."""
    first, err = next((item for item in failed.items() if recovery.code(item[1])), None) or next(
        iter(failed.items())
    )
    code = recovery.code(err)
    who = f"process {first.nspid} ({first.name})"
    if more := sum(recovery.code(other) == code for other in failed.values()) - 1:
        who += f" and {more} more"
    if isinstance(err, errors.GpuError) and not code:
        made = errors.GpuError(f"{who}: {err.message}", hint=err.hint, reason=err.reason)
        made.retryable = err.retryable
    else:
        text = f"{who}: {what}" + (f": {code or err}" if err else "")
        made = errors.GpuError(text, code=code, hint=hint, reason=reason)
    made.__cause__ = err
    return made


def _unsupported(failed: Mapping[recovery.Process, Exception], what: str) -> errors.GpuError:
    made = _failed(
        failed,
        what,
        names.Reason.GPU_STATE_UNSUPPORTED,
        "memory shared by CUDA IPC needs driver 610 or later, and managed memory cannot be "
        f"checkpointed: {_DOCUMENT}",
    )
    made.retryable = False
    return made


def _gibibytes(processes: Mapping[recovery.Process, object]) -> str:
    size = sum(process.bytes for process in processes)
    return f"{size / (1 << 30):.1f} GiB" if size else "its memory"
