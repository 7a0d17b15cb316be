"""Deletion of artifacts that nobody reads: a Lease keeps readers and deletions apart.

One Lease for each identity hash, in the release's namespace. A deletion holds it first, then waits
until no reader's mark on it is valid, then deletes. A reader marks it first and then looks at who
holds it, so that whichever of the two comes second gives way. A deletion that died is taken over
once its Lease has not been renewed for its whole duration, by the own clock; one that cannot renew
stops before that.
Readers are `chrek.agent.readers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import pathlib
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from chrek import config, errors, log, names, removal
from chrek import storage as storages
from chrek import store as stores
from chrek.kube import api

LOG = log.get(__name__)
GROUP_VERSION = "coordination.k8s.io/v1"
READING = "chrek.nvidia.com/reading-"
HOLDER = "deletion/"
LEASE_SECONDS = 30
RENEW_SECONDS = 5.0
HELD_SECONDS = 20.0
"""So long after its last renewal a deletion goes on deleting."""
POLL_SECONDS = 0.5
READER_MARGIN_SECONDS = 60.0
"""A reader's mark is valid for so long after the longest restore."""
ATTEMPTS = 20

Object = dict[str, Any]


def run(
    config_path: pathlib.Path, namespace: str, paths: Sequence[str], *, timeout: float | None
) -> None:
    """Delete artifacts of a namespace and print what went, a line each.

    Args:
        config_path: the agent's configuration.
        namespace: of the checkpoints.
        paths: `<hash>`, `<hash>/<variant>` or `<hash>/<variant>/<uuid>`.
        timeout: seconds to wait for readers and other deletions; None for as long as a restore
            may take.

    Raises:
        ChrekError: not everything was deleted; says why.
    """
    wanted = [stores.parse_path(path) for path in paths]
    settings = config.load(config_path, config.AgentConfig)
    log.setup(settings.logLevel)
    asyncio.run(_run(settings, namespace, wanted, timeout))


async def _run(
    settings: config.AgentConfig,
    namespace: str,
    paths: Sequence[stores.ArtifactPath],
    timeout: float | None,
) -> None:
    credentials = api.credentials()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with api.Client(credentials, user_agent="chrek-prune") as client:
        await Prune(
            client,
            settings,
            own=os.environ.get("POD_NAMESPACE") or credentials.namespace,
            holder=HOLDER + (os.environ.get("POD_NAME") or socket.gethostname()),
            stop=stop,
        ).delete(namespace, paths, timeout=timeout)


class Prune:
    """Deletes artifacts behind the Lease."""

    def __init__(
        self,
        client: api.Client,
        settings: config.AgentConfig,
        *,
        own: str,
        holder: str,
        stop: asyncio.Event,
        report: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        """Prepare.

        Args:
            client: connection as the agent's account.
            settings: the agent's.
            own: the release's namespace, where the Leases are.
            holder: who this is; starts with `deletion/`.
            stop: once set, the Lease is given back and nothing more deleted.
            report: takes a line for each thing that was deleted.
        """
        self._client = client
        self._settings = settings
        self._own = own
        self._holder = holder
        self._stop = stop
        self._report = report
        self._reader_seconds = settings.restoreTimeoutSeconds + READER_MARGIN_SECONDS

    async def delete(
        self, namespace: str, paths: Sequence[stores.ArtifactPath], *, timeout: float | None = None
    ) -> None:
        """Delete artifacts of a namespace.

        Raises:
            ChrekError: not everything was deleted; says why.
        """
        storage = storages.Storage(
            self._settings.storage,
            self._own,
            transfer_seconds=self._settings.dumpTimeoutSeconds,
        )
        patience = self._reader_seconds + LEASE_SECONDS if timeout is None else timeout
        deadline = time.monotonic() + patience
        with contextlib.closing(storage):
            for path in paths:
                await self._delete(storage.of(namespace), namespace, path, deadline)

    async def _delete(
        self, store: storages.AnyStore, namespace: str, path: stores.ArtifactPath, deadline: float
    ) -> None:
        name = f"{self._settings.release}.{namespace}.{path[0]}"
        fence = Fence(self._client, self._own, name, self._holder, self._reader_seconds)
        try:
            await self._wait(fence.take, deadline)
            await self._wait(fence.clear, deadline)
            await self._remove(store, path, fence)
        finally:
            await fence.release(gone=await asyncio.to_thread(_empty, store, path[0]))

    async def _wait(self, check: Callable[[], Awaitable[str]], deadline: float) -> None:
        """Ask until the answer is empty."""
        while reason := await check():
            if time.monotonic() >= deadline:
                raise errors.ChrekError(
                    f"nothing was deleted: {reason}",
                    hint="run it again later",
                    reason=names.Reason.DELETION_FAILED,
                )
            try:
                await asyncio.wait_for(self._stop.wait(), POLL_SECONDS)
            except TimeoutError:
                continue
            raise _stopped()
        if self._stop.is_set():
            raise _stopped()

    async def _remove(
        self, store: storages.AnyStore, path: stores.ArtifactPath, fence: Fence
    ) -> None:
        work = asyncio.create_task(
            asyncio.to_thread(
                store.delete,
                *path,
                # As the agents' sweep: so long a dump may take.
                stage_seconds=2.0 * self._settings.dumpTimeoutSeconds,
                on_deleted=lambda gone: self._report(line(gone)),
                stopped=lambda: self._stop.is_set() or not fence.held(),
            )
        )
        while not (await asyncio.wait({work}, timeout=RENEW_SECONDS))[0]:
            await fence.renew()
        work.result()
        if self._stop.is_set():
            raise _stopped()
        if not fence.held():
            raise errors.ApiError(
                f"the Lease could not be renewed for {HELD_SECONDS:g} s",
                hint="see why the API server does not answer; run it again",
            )


class Fence:
    """The Lease of one identity hash, as a deletion sees it."""

    def __init__(
        self, client: api.Client, namespace: str, name: str, holder: str, reader_seconds: float
    ) -> None:
        self._client = client
        self._where = (GROUP_VERSION, "leases", namespace)
        self._name = name
        self._holder = holder
        self._reader_seconds = reader_seconds
        self._renewed = -HELD_SECONDS
        self._seen: dict[str, float] = {}
        """What others wrote -> when it was first seen, by the own clock."""

    def held(self) -> bool:
        """Whether no other deletion can hold it now."""
        return time.monotonic() - self._renewed < HELD_SECONDS

    async def take(self) -> str:
        """Try to hold the Lease; returns who has it instead, empty on success."""
        lease = await self._client.find(*self._where, self._name)
        if lease is None:
            return await self._written(self._create())
        spec = lease.get("spec") or {}
        other = str(spec.get("holderIdentity") or "")
        if other not in ("", self._holder):
            age = self._age(f"{other} {spec.get('renewTime')}")
            if age < float(spec.get("leaseDurationSeconds") or LEASE_SECONDS):
                return f"{other} deletes it already"
        return await self._written(self._patch(lease, self._spec()))

    async def clear(self) -> str:
        """Which readers are left, empty when none is; renews when it is time."""
        if time.monotonic() - self._renewed >= RENEW_SECONDS:
            await self.renew()
        lease = await self._client.get(*self._where, self._name)
        found = str((lease.get("spec") or {}).get("holderIdentity") or "")
        if found != self._holder:
            raise errors.ApiError(f"Lease {self._name} is held by {found!r} now")
        marks = lease["metadata"].get("annotations") or {}
        readers = [key for key, end in marks.items() if self._reads(key, str(end))]
        return f"pods on {len(readers)} nodes are being restored from it" if readers else ""

    async def renew(self) -> None:
        """Go on holding it, if the API server answers."""
        try:
            lease = await self._client.get(*self._where, self._name)
            if (lease.get("spec") or {}).get("holderIdentity") == self._holder:
                await self._written(self._patch(lease, self._spec()))
        except errors.ApiError as err:
            LOG.warning("cannot renew the lease", lease=self._name, error=str(err))

    async def release(self, *, gone: bool) -> None:
        """Let readers read again.

        Args:
            gone: nothing is left that the Lease could be for: it is deleted.
        """
        try:
            for _ in range(ATTEMPTS):
                lease = await self._client.find(*self._where, self._name)
                if lease is None or (lease.get("spec") or {}).get("holderIdentity") != self._holder:
                    return
                ended = dict.fromkeys(self._spec())
                write = self._delete(lease) if gone else self._patch(lease, ended)
                if not await self._written(write):
                    return
        except errors.ApiError as err:
            # Readers and other deletions wait no longer than its duration.
            LOG.warning("cannot give the lease back", lease=self._name, error=str(err))

    def _age(self, text: str) -> float:
        return time.monotonic() - self._seen.setdefault(text, time.monotonic())

    def _reads(self, key: str, end: str) -> bool:
        """Whether a mark is valid: its time is not over, nor is it there for longer than can be."""
        if not key.startswith(READING) or self._age(f"{key} {end}") >= self._reader_seconds:
            return False
        try:
            expiry = datetime.datetime.fromisoformat(end)
        except ValueError:
            return True
        return expiry.timestamp() > time.time()

    def _spec(self) -> Object:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": now,
        }

    async def _create(self) -> None:
        _, _, namespace = self._where
        metadata = {"name": self._name, "namespace": namespace}
        body = {"apiVersion": GROUP_VERSION, "kind": "Lease", "metadata": metadata}
        await self._client.create(*self._where, {**body, "spec": self._spec()})

    async def _patch(self, lease: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        """Write the own fields alone: the marks belong to the readers."""
        version = lease["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "spec": dict(spec)}
        await self._client.patch(*self._where, self._name, body)

    async def _delete(self, lease: Mapping[str, Any]) -> None:
        version = lease["metadata"]["resourceVersion"]
        where = api.path(*self._where, self._name)
        options = {"apiVersion": "v1", "kind": "DeleteOptions"}
        await self._client.request(
            "DELETE", where, body={**options, "preconditions": {"resourceVersion": version}}
        )

    async def _written(self, write: Awaitable[None]) -> str:
        """Await a write; says so when somebody else wrote in between."""
        started = time.monotonic()
        try:
            await write
        except errors.ApiError as err:
            if err.status in (404, 409):
                return "its Lease changes all the time"
            raise
        self._renewed = started
        return ""


def _empty(store: storages.AnyStore, identity_hash: str) -> bool:
    with contextlib.suppress(errors.ChrekError):
        return store.empty(identity_hash)
    return False


def line(gone: removal.Deleted) -> str:
    """What the program prints of an artifact that is gone."""
    return f"deleted {gone.path} {gone.bytes} bytes"


def _stopped() -> errors.ChrekError:
    return errors.ChrekError(
        "stopped before everything was deleted",
        hint="run it again",
        reason=names.Reason.DELETION_FAILED,
    )
