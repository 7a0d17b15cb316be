"""What this node's agent has in flight, on the signal path: it survives the agent.

One small JSON file for each pod. A restarted agent learns from it which restores were cut off (the
pod's next start is cold) and which restored workers are still on probation.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from typing import Literal

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


class Journal:
    """Records by pod UID, in memory and on disk."""

    def __init__(self, path: pathlib.Path) -> None:
        """Read what the last agent left; what it was restoring has failed.

        Raises:
            OSError: the directory cannot be read or made.
        """
        self._path = path / "journal"
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records: dict[str, Record] = {}
        for file in self._path.glob("*.json"):
            try:
                record = msgspec.json.decode(file.read_bytes(), type=Record)
            except (OSError, msgspec.DecodeError) as err:
                LOG.warning("journal entry dropped", file=file.name, error=str(err))
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
                continue
            if record.state == "restoring":
                record = msgspec.structs.replace(
                    record,
                    state="failed",
                    reason=names.Reason.AGENT_GONE,
                    message="the agent ended during the restore",
                )
                LOG.warning("restore was cut off", pod=record.pod, uuid=record.uuid)
            self._records[file.stem] = record

    def items(self) -> list[tuple[str, Record]]:
        """All records with the UIDs of their pods."""
        return list(self._records.items())

    def get(self, pod_uid: str) -> Record | None:
        """The record of a pod."""
        return self._records.get(pod_uid)

    def put(self, pod_uid: str, record: Record) -> None:
        """Write a record; it is on disk when this returns."""
        record = msgspec.structs.replace(record, at=time.time())
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
