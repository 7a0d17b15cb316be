"""What this node's agent has in flight, on the signal path: it survives the agent.

One small JSON file for each pod. A restarted agent learns from it which restores were cut off (the
pod's next start is cold), which restored workers are still on probation, and which artifacts are
complete of which the API has not been told.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from typing import Any, Generic, Literal, TypeVar

import msgspec

from chrek import log, names

LOG = log.get(__name__)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """State of one pod."""

    pod: str
    """`namespace/name`, for whoever reads the file."""
    state: Literal["restoring", "restored", "failed"]
    """`restored`: on probation."""
    uuid: str
    """The artifact: a failure with one artifact says nothing about the next."""
    variant: str = ""
    container: str = ""
    """ID of the container that was restored."""
    reason: str = ""
    message: str = ""
    at: float = 0.0
    """Seconds since the epoch at which the state began."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a capture, on its way to the API."""

    namespace: str
    name: str
    uid: str
    """Of the pod."""
    result: dict[str, Any]


Kind = TypeVar("Kind", bound=msgspec.Struct)


class Records(Generic[Kind]):
    """Records of one kind by pod UID, in memory and on disk."""

    def __init__(self, path: pathlib.Path, kind: type[Kind]) -> None:
        """Read what the last agent left.

        Args:
            path: their directory; made if need be.

        Raises:
            OSError: the directory cannot be read or made.
        """
        self._path = path
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records: dict[str, Kind] = {}
        for file in self._path.glob("*.json"):
            try:
                self._records[file.stem] = msgspec.json.decode(file.read_bytes(), type=kind)
            except (OSError, UnicodeDecodeError, msgspec.DecodeError) as err:
                LOG.warning("journal entry dropped", file=file.name, error=str(err))
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)

    def items(self) -> list[tuple[str, Kind]]:
        """All records with the UIDs of their pods."""
        return list(self._records.items())

    def get(self, pod_uid: str) -> Kind | None:
        """The record of a pod."""
        return self._records.get(pod_uid)

    def put(self, pod_uid: str, record: Kind) -> None:
        """Write a record; it is on disk when this returns."""
        self._records[pod_uid] = record
        path = self._path / f"{pod_uid}.json"
        temporary = path.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(record))
        os.replace(temporary, path)

    def drop(self, pod_uid: str) -> None:
        """Forget a pod."""
        if self._records.pop(pod_uid, None) is not None:
            with contextlib.suppress(OSError):
                (self._path / f"{pod_uid}.json").unlink(missing_ok=True)

    def keep_only(self, pod_uids: set[str]) -> None:
        """Forget all pods but these."""
        for uid in self._records.keys() - pod_uids:
            self.drop(uid)


class Journal(Records[Record]):
    """Of restores; what the last agent was restoring has failed."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path / "journal", Record)
        for uid, record in self.items():
            if record.state == "restoring":
                self._records[uid] = msgspec.structs.replace(
                    record,
                    state="failed",
                    reason=names.Reason.AGENT_GONE,
                    message="the agent ended during the restore",
                )
                LOG.warning("restore was cut off", pod=record.pod, uuid=record.uuid)

    def put(self, pod_uid: str, record: Record) -> None:
        """Write a record, as of now; it is on disk when this returns."""
        super().put(pod_uid, msgspec.structs.replace(record, at=time.time()))


class Results(Records[Result]):
    """Of captures."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path / "captures", Result)
