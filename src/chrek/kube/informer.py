"""An in-memory copy of a collection, kept up to date by list and watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from chrek import errors, log
from chrek.kube import client as client_module

LOG = log.get(__name__)

T = TypeVar("T")


class Informer(Generic[T]):
    """Follows a collection and keeps what `project` makes of each object.

    Attributes:
        synced: set once the first list is in memory.
        connected: whether the last list or watch was answered.
    """

    def __init__(
        self,
        client: client_module.Client,
        path: str,
        *,
        query: client_module.Query | None = None,
        project: Callable[[dict[str, Any]], T | None],
        on_change: Callable[[str, T | None, T | None], None] | None = None,
    ) -> None:
        """Prepare; `run()` starts it.

        Args:
            client: connection to use.
            path: the collection, from `client.path`.
            query: `labelSelector`, `fieldSelector`.
            project: makes the value to keep, None to keep nothing of an object.
            on_change: called with `(key, value, previous)` after every change; value is None for
                an object that is gone. The key is `namespace/name`. It must not block; what it
                raises is logged.
        """
        self.synced = asyncio.Event()
        self.connected = False
        self._client = client
        self._path = path
        self._query: Mapping[str, str | int | bool] = query or {}
        self._project = project
        self._on_change = on_change
        self._values: dict[str, T] = {}
        self._versions: dict[str, str] = {}

    def get(self, namespace: str | None, name: str) -> T | None:
        """The value of an object, None when there is none."""
        return self._values.get(f"{namespace or ''}/{name}")

    def items(self) -> list[tuple[str, T]]:
        """All values with their keys."""
        return list(self._values.items())

    async def run(self) -> None:
        """List, then watch, for ever; errors are logged and tried again."""
        failures = 0
        while True:
            try:
                version = await self._relist()
                failures = 0
                await self._follow(version)
            except errors.ApiError as err:
                self.connected = False
                if err.status == 410:
                    LOG.debug("watch history gone, listing again", path=self._path)
                    continue
                failures += 1
                LOG.warning("cannot follow a collection", path=self._path, error=str(err))
            await asyncio.sleep(client_module.backoff(failures))

    async def _relist(self) -> str:
        seen, version = set(), ""
        async for page in self._client.pages(self._path, query=self._query):
            self.connected = True
            version = str(page["metadata"]["resourceVersion"])
            for item in page.get("items") or []:
                seen.add(_key(item))
                self._put(item)
        for key in [key for key in self._versions if key not in seen]:
            self._drop(key)
        self.synced.set()
        return version

    async def _follow(self, version: str) -> None:
        events = self._client.watch(self._path, query=self._query, resource_version=version)
        async for kind, item in events:
            if kind == "DELETED":
                self._drop(_key(item))
            elif kind != "BOOKMARK":
                self._put(item)

    def _put(self, item: dict[str, Any]) -> None:
        key, version = _key(item), item["metadata"].get("resourceVersion", "")
        if self._versions.get(key) == version:
            return
        try:
            value = self._project(item)
        except Exception:
            # One malformed object must not blind us to all the others.
            LOG.exception("cannot read an object", path=self._path, key=key)
            value = None
        self._versions[key] = version
        previous = self._values.pop(key, None)
        if value is not None:
            self._values[key] = value
        if value is not None or previous is not None:
            self._notify(key, value, previous)

    def _drop(self, key: str) -> None:
        self._versions.pop(key, None)
        previous = self._values.pop(key, None)
        if previous is not None:
            self._notify(key, None, previous)

    def _notify(self, key: str, value: T | None, previous: T | None) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(key, value, previous)
        except Exception:
            LOG.exception("change handler failed", path=self._path, key=key)


def _key(item: Mapping[str, Any]) -> str:
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
