"""What the helper process and its client say to each other, and the facts that they hand on.

A message is one packet of a SOCK_SEQPACKET pair: a tagged struct in MessagePack. Each request has a
number that its answer repeats, so that many are under way at once and answers come in any order.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

from chrek import compatibility

MOST_BYTES = 1 << 20
"""Of one message."""


class State(enum.StrEnum):
    """Of a process that uses CUDA, as the driver has it (CUprocessState)."""

    RUNNING = "running"
    LOCKED = "locked"
    """Its calls of the driver wait."""
    CHECKPOINTED = "checkpointed"
    """Its device memory is in its host memory, and it holds no GPU."""
    FAILED = "failed"
    """The driver could not go on; the process is lost."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """The GPUs of a node and their driver."""

    driver: str
    """Version of the kernel driver, such as `580.65.06`."""
    api: int
    """Version of the driver API: 1000 x major + 10 x minor, such as 13000."""
    gpus: list[compatibility.Gpu]
    """All that the kernel driver has, ordered by minor."""

    def select(self, uuids: Iterable[str]) -> list[compatibility.Gpu]:
        """Those of `uuids` that this node has, ordered by minor."""
        wanted = set(uuids)
        return [gpu for gpu in self.gpus if gpu.uuid in wanted]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses a GPU, and what is left of it."""

    uuid: str
    freeBytes: int  # noqa: N815 - as compatibility.Gpu spells its fields
    persistence: bool
    """Persistence mode: the driver keeps the GPU ready while nobody uses it."""
    processes: dict[int, int]
    """PID, as the host counts -> bytes of device memory; 0 where the driver does not tell."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    id: int


class Start(_Message, frozen=True, kw_only=True):
    """Asks whether the driver is initialised; answered by `Done` as soon as it is."""


class DescribeNode(_Message, frozen=True, kw_only=True):
    """Answered by `NodeAnswer`."""


class DescribeUsage(_Message, frozen=True, kw_only=True):
    """Answered by `UsageAnswer`."""


class _OfProcess(_Message, frozen=True, kw_only=True):
    pid: int
    """As the helper's PID namespace counts, which is the host's."""


class GetRestoreThread(_OfProcess, frozen=True, kw_only=True):
    """Answered by `ThreadAnswer`."""


class GetState(_OfProcess, frozen=True, kw_only=True):
    """Answered by `StateAnswer`."""


class Lock(_OfProcess, frozen=True, kw_only=True):
    """Running -> locked. Answered by `Done`, as all that follow."""

    timeout_seconds: float


class Checkpoint(_OfProcess, frozen=True, kw_only=True):
    """Locked -> checkpointed."""


class Restore(_OfProcess, frozen=True, kw_only=True):
    """Checkpointed -> locked."""

    mapping: dict[str, str] | None
    """UUID of each GPU of the node of the capture -> UUID of one here; None: the same GPUs."""


class Unlock(_OfProcess, frozen=True, kw_only=True):
    """Locked -> running."""


class Done(_Message, frozen=True, kw_only=True):
    """It was done."""


class NodeAnswer(_Message, frozen=True, kw_only=True):
    """To `DescribeNode`."""

    node: Node


class UsageAnswer(_Message, frozen=True, kw_only=True):
    """To `DescribeUsage`."""

    usage: list[Usage]


class ThreadAnswer(_Message, frozen=True, kw_only=True):
    """To `GetRestoreThread`."""

    thread: int | None
    """None: the process does not use CUDA, or is gone."""


class StateAnswer(_Message, frozen=True, kw_only=True):
    """To `GetState`."""

    state: State


class Failed(_Message, frozen=True, kw_only=True):
    """To any request: what a GpuError of the client carries."""

    message: str
    code: str = ""
    hint: str | None = None
    reason: str | None = None
    spent: bool = False
    """The helper's libraries stay in this state: only a new process can do better."""


Question = Start | DescribeNode | DescribeUsage | GetRestoreThread | GetState
"""Changes nothing, and can be asked again."""
Request = Question | Lock | Checkpoint | Restore | Unlock
Answer = Done | NodeAnswer | UsageAnswer | ThreadAnswer | StateAnswer | Failed

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
