"""Facts of the node's GPUs by NVML: the only module that meets libnvidia-ml.

Loaded by the helper process alone. NVML stays initialised between calls, and is initialised again
when it says that it must be: after the driver was loaded again, or a GPU was reset.
Source: NVML API Reference Manual.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped]

from chrek import compatibility, errors, names
from chrek.cuda import words

_T = TypeVar("_T")

_CODES = {
    value: name
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
}
_AGAIN = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_IS_LOST,
    }
)
"""After these a new initialisation can help."""
_NOT_THERE = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION})
"""The GPU, or the machine that it is lent to, has no such thing."""


class Nvml:
    """NVML in this process. Every method may be called by several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._initialised = False

    def node(self, api: int) -> words.Node:
        """The GPUs of this node.

        Args:
            api: version of the driver API, which NVML knows only by another library.

        Raises:
            GpuError: NVML, or one of the GPUs, does not answer.
        """

        def ask() -> words.Node:
            gpus = [_gpu(handle) for handle in _handles()]
            return words.Node(
                driver=pynvml.nvmlSystemGetDriverVersion(),
                api=api,
                gpus=sorted(gpus, key=lambda gpu: gpu.minor),
            )

        return self._ask("description of the GPUs", ask)

    def usage(self) -> list[words.Usage]:
        """Who uses each GPU, and what is left of it, in NVML's order.

        Raises:
            GpuError: NVML, or one of the GPUs, does not answer.
        """
        return self._ask("usage of the GPUs", lambda: [_usage(handle) for handle in _handles()])

    def _ask(self, what: str, question: Callable[[], _T]) -> _T:
        for last in (False, True):
            try:
                self._initialise()
                return question()
            except pynvml.NVMLLibraryMismatchError as err:
                raise errors.GpuError(
                    f"NVML: {what}: the library is too old: {err}",
                    reason=names.Reason.GPU_DRIVER_TOO_OLD,
                    hint="use NVIDIA driver 580 or later on this node",
                ) from err
            except pynvml.NVMLError as err:
                if last or err.value not in _AGAIN:
                    raise _failure(what, err) from err
                self._forget()
        raise AssertionError("the last try returns or raises")

    def _initialise(self) -> None:
        with self._lock:
            if not self._initialised:
                pynvml.nvmlInit()
                self._initialised = True

    def _forget(self) -> None:
        with self._lock:
            if self._initialised:
                self._initialised = False
                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlShutdown()


def _handles() -> list[Any]:
    count = pynvml.nvmlDeviceGetCount()
    return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]


def _gpu(handle: Any) -> compatibility.Gpu:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    migs = _unless_absent(lambda: pynvml.nvmlDeviceGetMigMode(handle), [0, 0])
    return compatibility.Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        minor=pynvml.nvmlDeviceGetMinorNumber(handle),
        model=pynvml.nvmlDeviceGetName(handle),
        memoryBytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        computeCapability=f"{major}.{minor}",
        partitioned=migs[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
    )


def _usage(handle: Any) -> words.Usage:
    processes: dict[int, int] = {}
    listed: list[Any] = _unless_absent(
        lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle), []
    )
    for process in listed:
        # None where the driver does not tell; one entry for each partition that it uses.
        used = process.usedGpuMemory or 0
        processes[process.pid] = processes.get(process.pid, 0) + used
    persistence = _unless_absent(lambda: pynvml.nvmlDeviceGetPersistenceMode(handle), 0)
    return words.Usage(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        freeBytes=pynvml.nvmlDeviceGetMemoryInfo(handle).free,
        persistence=persistence == pynvml.NVML_FEATURE_ENABLED,
        processes=processes,
    )


def _unless_absent(question: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return question()
    except pynvml.NVMLError as err:
        if err.value in _NOT_THERE:
            return otherwise
        raise


def _failure(what: str, err: Any) -> errors.GpuError:
    code = _CODES.get(err.value, f"NVML_ERROR {err.value}")
    return errors.GpuError(
        f"NVML: {what} failed with {code} ({err})",
        code=code,
        hint="see `nvidia-smi` on the node, and whether the agent's container has /dev/nvidia*",
    )
