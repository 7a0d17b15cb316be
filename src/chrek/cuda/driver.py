"""The CUDA driver's functions for checkpoints of processes: the only module that meets libcuda.

Loaded by the helper process alone. A process runs, is locked, is checkpointed, is locked again and
runs; each call here is one of these steps of one process, and blocks until it is done.
Source: CUDA Driver API, "CUDA Checkpointing"; cuda-bindings 13.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cuda import pathfinder  # type: ignore[import-untyped]
from cuda.bindings import driver as _driver  # type: ignore[import-untyped]

from chrek import errors, names
from chrek.cuda import words

OLDEST_API = 12080
"""Has the functions: driver 570."""
OLDEST_MAPPING_API = 13000
"""Restores onto other GPUs: driver 580."""
UPGRADE = "use NVIDIA driver 580 or later on this node"
LOOK = "see `nvidia-smi` on the node, and whether the agent's container has /dev/nvidia*"

_R = names.Reason


class Driver:
    """The driver of this node. Every method may be called by several threads at once."""

    def version(self) -> int:
        """Version of the driver API, such as 13000; `init` is not needed for it.

        Raises:
            GpuError: there is no libcuda that can be asked.
        """
        return int(self._call("cuDriverGetVersion", "version", _R.GPU_UNAVAILABLE))

    def init(self) -> None:
        """Initialise the driver in this process, which takes seconds; needed by all below.

        Raises:
            GpuError: the driver is too old for checkpoints, or there is no GPU that works.
        """
        api = self.version()
        if api < OLDEST_API:
            raise _too_old(f"has the API of CUDA {_dotted(api)}")
        try:
            self._call("cuInit", "initialisation", _R.GPU_UNAVAILABLE, 0)
        except errors.GpuError as err:
            err.hint = LOOK
            raise

    def restore_thread(self, pid: int) -> int | None:
        """The thread that restores a process; None where it does not use CUDA, or is gone.

        Raises:
            GpuError: the driver does not tell.
        """
        try:
            found = self._call(
                "cuCheckpointProcessGetRestoreThreadId", "restore thread", _R.GPU_UNAVAILABLE, pid
            )
        except errors.GpuError as err:
            if err.code == "CUDA_ERROR_INVALID_VALUE":
                return None
            raise
        return int(found)

    def state(self, pid: int) -> words.State:
        """State of a process.

        Raises:
            GpuError: the driver does not tell, or the process is gone.
        """
        found = self._call("cuCheckpointProcessGetState", "state", _R.GPU_UNAVAILABLE, pid)
        try:
            return words.State(found.name.removeprefix("CU_PROCESS_STATE_").lower())
        except ValueError:
            # On the way to another one, which only a caller with storage of its own can see.
            raise errors.GpuError(
                f"CUDA state of process {pid} is {found.name}",
                hint="another program checkpoints or restores it",
            ) from None

    def lock(self, pid: int, timeout_seconds: float) -> None:
        """Have the calls of a process wait, once its work on the GPUs has ended.

        Args:
            timeout_seconds: how long that may take.

        Raises:
            GpuError: GpuLockTimeout, or another Reason; the process runs.
        """
        args = _driver.CUcheckpointLockArgs()
        # 0 would be no limit.
        args.timeoutMs = max(1, round(1000 * timeout_seconds))
        with _hints(
            CUDA_ERROR_NOT_READY=(
                _R.GPU_LOCK_TIMEOUT,
                f"its work on the GPUs took more than {timeout_seconds:g} seconds: "
                "have it wait for requests, or give it more time",
            )
        ):
            self._call("cuCheckpointProcessLock", "lock", _R.GPU_CHECKPOINT_FAILED, pid, args)

    def checkpoint(self, pid: int) -> None:
        """Bring a locked process's device memory into its host memory, and have it let go the GPUs.

        Raises:
            GpuError: it cannot be done; `state` tells what it is now.
        """
        with _hints(
            CUDA_ERROR_OUT_OF_MEMORY=(
                _R.INSUFFICIENT_HOST_MEMORY,
                "device memory goes into host memory: raise resources.limits.memory",
            )
        ):
            self._call(
                "cuCheckpointProcessCheckpoint", "checkpoint", _R.GPU_CHECKPOINT_FAILED, pid, None
            )

    def restore(self, pid: int, mapping: Mapping[str, str] | None) -> None:
        """Bring a checkpointed process's device memory back to GPUs; it is locked then.

        Args:
            mapping: UUID of each GPU of the node of the capture -> UUID of one of this node; None
                for the same GPUs.

        Raises:
            GpuError: it cannot be done.
        """
        args = None
        if mapping:
            api = self.version()
            if api < OLDEST_MAPPING_API:
                raise _too_old(
                    f"has the API of CUDA {_dotted(api)}, which restores onto the same GPUs only"
                )
            args = _driver.CUcheckpointRestoreArgs()
            args.gpuPairs = [_pair(old, new) for old, new in mapping.items()]
            args.gpuPairsCount = len(mapping)
        with _hints(
            CUDA_ERROR_OUT_OF_MEMORY=(
                _R.GPU_MEMORY_TOO_SMALL,
                "something else uses the GPU: see `nvidia-smi` on the node",
            ),
            CUDA_ERROR_INVALID_VALUE=(
                _R.GPU_RESTORE_FAILED,
                "GPUs must be as many as at the capture, and of the same chips",
            ),
        ):
            self._call("cuCheckpointProcessRestore", "restore", _R.GPU_RESTORE_FAILED, pid, args)

    def unlock(self, pid: int) -> None:
        """Have a locked process go on.

        Raises:
            GpuError: it does not.
        """
        self._call("cuCheckpointProcessUnlock", "unlock", _R.GPU_RESTORE_FAILED, pid, None)

    def _call(self, function: str, what: str, reason: names.Reason, *args: Any) -> Any:
        """Call a function of the driver and return what it gives besides its result."""
        whose = f" of process {args[0]}" if function.startswith("cuCheckpoint") else ""
        try:
            called: Callable[..., tuple[Any, ...]] = getattr(_driver, function)
            result, *values = called(*args)
        except pathfinder.DynamicLibNotFoundError as err:
            raise errors.GpuError(f"libcuda.so.1 cannot be loaded: {err}", hint=LOOK) from err
        except RuntimeError as err:
            # The bindings found no such function in the library.
            raise _too_old(f"has no {function}: {err}") from err
        except ValueError as err:
            # A number that the bindings have no name for.
            raise errors.GpuError(f"CUDA {what}{whose} failed: {err}", reason=reason) from err
        if result != _driver.CUresult.CUDA_SUCCESS:
            code = result.name
            if whose and not os.path.exists(f"/proc/{args[0]}"):
                whose += ", which has ended,"
            if code == "CUDA_ERROR_NOT_SUPPORTED":
                raise errors.GpuError(
                    f"CUDA {what}{whose} failed with {code}",
                    code=code,
                    reason=_R.GPU_STATE_UNSUPPORTED,
                    hint="the driver cannot do it for what the process uses, such as managed or "
                    "shared (IPC) device memory; a later driver may",
                )
            raise errors.GpuError(
                f"CUDA {what}{whose} failed with {code}", code=code, reason=reason
            )
        return values[0] if values else None


@contextlib.contextmanager
def _hints(**known: tuple[names.Reason, str]) -> Iterator[None]:
    """Give failures of these codes a Reason and a hint of their own."""
    try:
        yield
    except errors.GpuError as err:
        if err.code in known:
            err.reason, err.hint = known[err.code]
        raise


def _pair(old: str, new: str) -> Any:
    pair = _driver.CUcheckpointGpuPair()
    for name, uuid in (("oldUuid", old), ("newUuid", new)):
        # The bindings copy the bytes out of this buffer at the assignment.
        buffer = ctypes.create_string_buffer(_uuid_bytes(uuid), 16)
        setattr(pair, name, _driver.CUuuid(ctypes.addressof(buffer)))
    return pair


def _uuid_bytes(uuid: str) -> bytes:
    try:
        data = bytes.fromhex(uuid.removeprefix("GPU-").replace("-", ""))
    except ValueError:
        data = b""
    if len(data) != 16:
        raise errors.GpuError(f"{uuid!r} is not the UUID of a GPU", reason=_R.GPU_RESTORE_FAILED)
    return data


def _dotted(api: int) -> str:
    return f"{api // 1000}.{api % 1000 // 10}"


def _too_old(why: str) -> errors.GpuError:
    return errors.GpuError(f"the CUDA driver {why}", reason=_R.GPU_DRIVER_TOO_OLD, hint=UPGRADE)
