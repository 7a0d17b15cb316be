"""The agent's checks of its own node: which there are, when they run, what they said last.

Each runs in a thread of its own, for a file system whose server is gone keeps a thread for as long
as it likes: such a check has failed, and is not started again before that thread is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import platform
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from chrek import config, errors, log, procfs
from chrek import storage as storages
from chrek.agent import metrics
from chrek.checks import directories, node, report
from chrek.cuda import words

LOG = log.get(__name__)
EVERY_SECONDS = 300.0
AGAIN_SECONDS = 30.0
"""After a failure."""
LIMIT_SECONDS = 20.0
SERVER_EVERY_SECONDS = 600.0
"""A server is written to, by every agent of the cluster."""
SERVER_LIMIT_SECONDS = 65.0
"""`storage.check` gives up by itself before, and knows why."""
GPU_LIMIT_SECONDS = 150.0
"""The driver's helper gives up by itself before, and knows why; waking GPUs up takes its time."""
KERNEL_EVERY_SECONDS = 3600.0
"""CRIU tries the kernel out with processes, and no kernel changes while it runs."""
_HANGING = "see which processes of this node are in state D, and what they wait for"


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of this node.

    Attributes:
        name: that of its outcome; a label of a metric, so there are few.
        run: makes it, in a thread. May raise ChrekError or OSError, which is a failure.
        every_seconds: how long what it said holds, unless it failed.
        limit_seconds: after which it has failed.
        hanging: what to do then.
    """

    name: str
    run: Callable[[], report.Outcome]
    every_seconds: float = EVERY_SECONDS
    limit_seconds: float = LIMIT_SECONDS
    hanging: str = _HANGING


class Gpus(Protocol):
    """The NVIDIA driver of the node; both raise GpuError."""

    def node(self) -> words.Node: ...
    def usage(self) -> list[words.Usage]: ...


def of_node(
    settings: config.AgentConfig,
    storage: storages.Storage,
    name: str,
    date: Callable[[], str],
    *,
    gpus: Gpus | None = None,
) -> list[Check]:
    """All checks, in the order in which a person reads them.

    Args:
        name: the node's.
        date: asks the API server for its `Date`.
        gpus: None where the driver's libraries were not found.
    """
    staging = pathlib.Path(settings.stagingPath)
    signals = pathlib.Path(settings.signalHostPath)
    kubelet = pathlib.Path(settings.kubeletRoot)
    return [
        *_of_store(settings.storage, storage, name),
        Check("signal-path", lambda: directories.signal_path(signals)),
        Check("staging", lambda: directories.staging(staging)),
        Check("kubelet-root", lambda: directories.kubelet_root(kubelet)),
        Check("kernel", lambda: node.kernel(platform.release())),
        Check("criu", lambda: node.criu(staging), every_seconds=KERNEL_EVERY_SECONDS),
        Check("cgroups", node.cgroups),
        Check("privilege", _privilege),
        Check("clock", lambda: node.clock(date)),
        Check(
            "gpu",
            lambda: node.gpu(gpus.node if gpus else None, gpus.usage if gpus else None),
            limit_seconds=GPU_LIMIT_SECONDS,
            hanging="see nvidia-smi on the node, and its kernel log for lines with NVRM",
        ),
    ]


def _privilege() -> report.Outcome:
    return node.privilege(procfs.status(os.getpid()), procfs.status(1))


def _of_store(settings: config.Storage, storage: storages.Storage, name: str) -> list[Check]:
    if storage.has_cache:
        cache = pathlib.Path(settings.cache.path)
        more = "make room on the disk of storage.cache.hostPath, or lower storage.cache.size"
        return [
            Check(
                "store",
                lambda: node.server(storage.check, settings.base("")),
                every_seconds=SERVER_EVERY_SECONDS,
                limit_seconds=SERVER_LIMIT_SECONDS,
                hanging="see whether the server of storage answers this node",
            ),
            Check("cache-space", lambda: directories.space("cache-space", cache, more)),
        ]
    base = pathlib.Path(settings.pvc.basePath)
    hanging = "see whether the server of the volume answers this node"
    return [
        Check("store", lambda: directories.volume(base, name), hanging=hanging),
        Check("store-space", lambda: directories.space("store-space", base), hanging=hanging),
    ]


class Selfcheck:
    """Runs checks again and again, and knows what they said."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = [*checks]
        self._outcomes: dict[str, report.Outcome] = {}
        self._hanging: dict[str, tuple[float, asyncio.Future[report.Outcome]]] = {}

    async def run(self) -> None:
        """Look for ever."""
        await asyncio.gather(*map(self._repeat, self.checks))

    async def _repeat(self, check: Check) -> None:
        while True:
            found = await self.look(check)
            failed = found.status is report.Status.FAILED
            await asyncio.sleep(AGAIN_SECONDS if failed else check.every_seconds)

    async def look(self, check: Check) -> report.Outcome:
        """Make one check now, or go on waiting for the one that hangs; returns its outcome."""
        if check.name in self._hanging:
            begun, future = self._hanging.pop(check.name)
        else:
            begun, future = time.monotonic(), _start(check)
        try:
            found = await asyncio.wait_for(asyncio.shield(future), check.limit_seconds)
        except TimeoutError:
            self._hanging[check.name] = begun, future
            text = f"did not answer for {time.monotonic() - begun:.0f} s"
            found = report.failed(check.name, text, check.hanging)
        self._keep(found)
        return found

    def outcomes(self) -> list[report.Outcome]:
        """What each check said last; those that have not said anything yet are not among them."""
        return [self._outcomes[one.name] for one in self.checks if one.name in self._outcomes]

    def problems(self) -> list[str]:
        """What keeps the agent from being ready."""
        unheard = [one.name for one in self.checks if one.name not in self._outcomes]
        found = [f"not looked at yet: {', '.join(unheard)}"] if unheard else []
        return found + [
            f"{o.name}: {o.detail} ({o.hint})" for o in report.failures(self.outcomes())
        ]

    def _keep(self, found: report.Outcome) -> None:
        before = self._outcomes.get(found.name)
        self._outcomes[found.name] = found
        failed = found.status is report.Status.FAILED
        metrics.PREFLIGHT_FAILED.labels(check=found.name).set(failed)
        if before is not None and _essence(before) == _essence(found):
            return
        logger = LOG.bind(check=found.name, detail=found.detail)
        if failed:
            logger.error("check failed", hint=found.hint)
        elif found.hint:
            logger.warning("check warns", hint=found.hint)
        elif before is not None:
            logger.info("check passes again")


def _essence(outcome: report.Outcome) -> tuple[report.Status, str]:
    """What is worth a line when it changes: of what is wrong the words, and no number in them."""
    if outcome.status is report.Status.OK:
        return outcome.status, ""
    return outcome.status, re.sub(r"[0-9a-f]*\d[0-9a-f]*", "", outcome.detail)


def _start(check: Check) -> asyncio.Future[report.Outcome]:
    """Begin a check in a thread that nobody waits for at the agent's end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[report.Outcome] = loop.create_future()

    def tell(found: report.Outcome) -> None:
        if not future.done():
            future.set_result(found)

    def work() -> None:
        found = _made(check)
        with contextlib.suppress(RuntimeError):  # The loop is closed: the agent has ended.
            loop.call_soon_threadsafe(tell, found)

    try:
        threading.Thread(target=work, name=f"check-{check.name}", daemon=True).start()
    except RuntimeError as err:
        tell(report.failed(check.name, f"no thread for it: {err}", "see the pids limit of agents"))
    return future


def _made(check: Check) -> report.Outcome:
    try:
        return check.run()
    except errors.ChrekError as err:
        return report.failed(check.name, err.message, err.hint or "see the agent's log")
    except OSError as err:
        return report.failed(check.name, str(err), "see the agent's log")
    except Exception as err:
        # A mistake in a check says nothing about the node, which may well do its work.
        LOG.error("check broke off", check=check.name, exc_info=err)
        return report.warning(check.name, f"broke off: {err!r}", "report this with the agent's log")
