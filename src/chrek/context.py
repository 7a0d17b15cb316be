"""`restore-context.json`: what a restored worker is told of the world that it wakes up in.

Its memory is that of another pod. The file, in the container's chrek volume, says which pod it is
in now: the environment that a new process would have, names and addresses, and random bytes that
no other restore of the artifact has. `chrek.worker` reads it; its schema in `schemas/` is generated
from these classes. It may hold secrets, as an environment may: only the worker's own user
can read it, and nothing of it is logged. A restore that cannot write it has failed: a worker that
waits for the file would never serve, and one that does not would go on as a copy of its siblings.

`env` is what published Dynamo workers read in a file of this name (see `chrek.dynamo`).
"""

from __future__ import annotations

import secrets
import time
import uuid

import msgspec

from chrek import manifest, procfs, rootfd

NAME = "restore-context.json"
SEED_BYTES = 32
MAX_ENVIRONMENT_BYTES = 2 << 20
"""The kernel's own limit of arguments and environment."""


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """The new pod; empty where a container is no pod's."""

    namespace: str = ""
    name: str = ""
    uid: str = ""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """See the module."""

    version: int = 1
    cloneId: str
    """A UUID that each restore has anew."""
    seed: str
    """Random bytes (hex), for generators whose state is that of the capture."""
    capturedAt: str
    """RFC 3339."""
    restoredAt: str
    identityHash: str
    artifact: str
    """UUID of the artifact."""
    pod: Pod
    hostname: str
    addresses: list[str]
    """Of the container's network namespace, loopback excepted."""
    env: dict[str, str]
    """Of the container's PID 1; bytes that are no UTF-8 become U+FFFD."""


def describe(captured: manifest.Manifest, init_pid: int, pod: Pod) -> Context:
    """The context of a restore into a container that has nothing but PID 1 in it."""
    variables = environment(init_pid)
    return Context(
        cloneId=str(uuid.uuid4()),
        seed=secrets.token_hex(SEED_BYTES),
        capturedAt=captured.createdAt,
        restoredAt=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        identityHash=captured.identityHash,
        artifact=captured.uuid,
        pod=pod,
        hostname=variables.get("HOSTNAME", ""),
        addresses=procfs.addresses(init_pid),
        env=variables,
    )


def environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with."""
    return {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, value in procfs.environment(pid, most_bytes=MAX_ENVIRONMENT_BYTES)
    }


def put(volume: int, context: Context, user: int, group: int) -> None:
    """Write the file into a container's chrek volume, for one user alone; all of it or nothing.

    Args:
        volume: descriptor of the volume's directory.
        user: who may read it.
        group: of the file; it has no rights.

    Raises:
        OSError: it cannot be written.
    """
    rootfd.put(volume, NAME, msgspec.json.encode(context), mode=0o400, owner=(user, group))


def remove(volume: int) -> None:
    """A container that starts cold was not restored, whatever the one before it was."""
    rootfd.remove(volume, NAME)
