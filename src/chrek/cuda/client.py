"""Asks the helper process, which alone knows the CUDA driver and NVML.

The helper is started when it is first needed, or before by `Helper.start`, and again by the next
call after it has ended. A call never waits for ever: on a time-out the caller is told, and what may
hang is left behind with its process.
"""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from chrek import errors, log
from chrek.cuda import instance, library, words

QUESTION_SECONDS = 30.0
"""For an answer that needs no work on a GPU."""
START_SECONDS = 120.0
"""For the driver's initialisation: about 3 s, and more where GPUs must be woken one by one."""
TRANSFER_SECONDS = 600.0
"""For device memory to go to the host, or back: 141 GB at a quarter of a GB each second."""
MARGIN_SECONDS = 30.0
"""Beyond a time-out of the driver's own."""
ABSENT_SECONDS = 60.0
"""For which nobody looks again for a driver that is not there."""

_A = TypeVar("_A", bound=msgspec.Struct)
_T = TypeVar("_T")
_logger = log.get("chrek.cuda")


class Helper:
    """The GPUs of this node. Every method may be called by several threads at once, and blocks."""

    def __init__(
        self,
        *,
        scratch: pathlib.Path,
        roots: Sequence[str] = library.DRIVER_ROOTS,
        host: pathlib.Path = library.HOST,
    ) -> None:
        """Nothing is started yet.

        Args:
            scratch: a directory for links to the driver's libraries, of this helper alone.
            roots: directories of the node below which a driver is looked for.
            host: the node's root directory.
        """
        self._scratch = scratch
        self._roots = tuple(roots)
        self._host = host
        self._lock = threading.Lock()
        self._instance: instance.Instance | None = None
        self._looked = -ABSENT_SECONDS
        self._found: library.Libraries | None = None

    def available(self) -> bool:
        """Whether this node has a driver; nothing is loaded to find out."""
        with self._lock:
            if self._instance is not None and self._instance.usable:
                return True
            return self._libraries() is not None

    def start(self, *, timeout_seconds: float = START_SECONDS) -> None:
        """Start the helper and wait until the driver is initialised.

        Raises:
            GpuError: there is no driver, or it cannot be used.
        """
        self._with_instance(lambda process: process.ready(timeout_seconds))

    def node(self, *, timeout_seconds: float = QUESTION_SECONDS) -> words.Node:
        """The GPUs of this node and its driver; the driver need not be initialised.

        Raises:
            GpuError: NVML does not answer.
        """
        return self._with_instance(
            lambda process: process.ask(
                "describe the GPUs",
                lambda number: words.DescribeNode(id=number),
                words.NodeAnswer,
                timeout_seconds,
            )
        ).node

    def usage(self, *, timeout_seconds: float = QUESTION_SECONDS) -> list[words.Usage]:
        """Who uses each GPU, and what is left of it; the driver need not be initialised.

        Raises:
            GpuError: NVML does not answer.
        """
        return self._with_instance(
            lambda process: process.ask(
                "tell the usage of the GPUs",
                lambda number: words.DescribeUsage(id=number),
                words.UsageAnswer,
                timeout_seconds,
            )
        ).usage

    def restore_thread(self, pid: int, *, timeout_seconds: float = QUESTION_SECONDS) -> int | None:
        """The thread that restores a process; None where it does not use CUDA, or is gone.

        Raises:
            GpuError: the driver does not tell.
        """
        return self._ask(
            f"tell whether process {pid} uses CUDA",
            lambda number: words.GetRestoreThread(id=number, pid=pid),
            words.ThreadAnswer,
            timeout_seconds,
        ).thread

    def state(self, pid: int, *, timeout_seconds: float = QUESTION_SECONDS) -> words.State:
        """What a process that uses CUDA is in.

        Raises:
            GpuError: the driver does not tell, or the process is gone.
        """
        return self._ask(
            f"tell the state of process {pid}",
            lambda number: words.GetState(id=number, pid=pid),
            words.StateAnswer,
            timeout_seconds,
        ).state

    def lock(self, pid: int, timeout_seconds: float) -> None:
        """Running -> locked.

        Args:
            timeout_seconds: how long the process's work on the GPUs may take to end.

        Raises:
            GpuError: GpuLockTimeout, or another Reason.
        """
        self._ask(
            f"lock process {pid}",
            lambda number: words.Lock(id=number, pid=pid, timeout_seconds=timeout_seconds),
            words.Done,
            timeout_seconds + MARGIN_SECONDS,
        )

    def checkpoint(self, pid: int, *, timeout_seconds: float = TRANSFER_SECONDS) -> None:
        """Locked -> checkpointed.

        Raises:
            GpuError: it cannot be done.
        """
        self._ask(
            f"checkpoint process {pid}",
            lambda number: words.Checkpoint(id=number, pid=pid),
            words.Done,
            timeout_seconds,
        )

    def restore(
        self,
        pid: int,
        mapping: Mapping[str, str] | None,
        *,
        timeout_seconds: float = TRANSFER_SECONDS,
    ) -> None:
        """Checkpointed -> locked.

        Args:
            mapping: UUID of each GPU of the node of the capture -> UUID of one of this node; None
                for the same GPUs.

        Raises:
            GpuError: it cannot be done.
        """
        pairs = None if mapping is None else dict(mapping)
        self._ask(
            f"restore process {pid}",
            lambda number: words.Restore(id=number, pid=pid, mapping=pairs),
            words.Done,
            timeout_seconds,
        )

    def unlock(self, pid: int, *, timeout_seconds: float = QUESTION_SECONDS) -> None:
        """Locked -> running.

        Raises:
            GpuError: it cannot be done.
        """
        self._ask(
            f"unlock process {pid}",
            lambda number: words.Unlock(id=number, pid=pid),
            words.Done,
            timeout_seconds,
        )

    def close(self) -> None:
        """End the helper, which lets the driver go; callers that wait are told.

        A later call starts another one.
        """
        with self._lock:
            ending, self._instance = self._instance, None
        if ending is not None:
            ending.close()

    def _ask(
        self,
        what: str,
        request: Callable[[int], words.Request],
        expected: type[_A],
        timeout_seconds: float,
    ) -> _A:
        def asked(process: instance.Instance) -> _A:
            process.ready(START_SECONDS)
            return process.ask(what, request, expected, timeout_seconds)

        return self._with_instance(asked)

    def _with_instance(self, call: Callable[[instance.Instance], _T]) -> _T:
        process, is_new = self._current()
        try:
            return call(process)
        except errors.GpuError as err:
            if is_new or not err.unasked:
                raise
        # It had ended, or its libraries had failed, before: that says nothing of what is now.
        process, _ = self._current()
        return call(process)

    def _current(self) -> tuple[instance.Instance, bool]:
        """The process to ask, and whether it was started for this call."""
        with self._lock:
            if self._instance is not None and self._instance.usable:
                return self._instance, False
            self._instance = self._started()
            return self._instance, True

    def _started(self) -> instance.Instance:
        libraries = self._libraries()
        if libraries is None:
            raise errors.GpuError(
                f"no NVIDIA driver: {' and '.join(library.REQUIRED)} were looked for "
                f"{library.describe(self._roots)}",
                hint="install the driver on this node, or set where it is",
            )
        # Another driver may be there when the next one is started.
        self._found = None
        library.make_device_files(self._host, self._roots)
        directory = self._scratch / "gpu-libraries"
        try:
            libraries.link(directory)
        except OSError as err:
            raise errors.GpuError(f"{directory}: cannot be filled: {err.strerror}") from err
        _logger.info("gpu helper starts", libraries=str(libraries.directory))
        return instance.Instance(directory)

    def _libraries(self) -> library.Libraries | None:
        """Those found last, or looked for again; the lock is held."""
        now = time.monotonic()
        if self._found is None and now - self._looked >= ABSENT_SECONDS:
            self._found = library.find(self._roots, self._host)
            self._looked = now if self._found is None else -ABSENT_SECONDS
        return self._found
