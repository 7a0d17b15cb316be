"""Names of objects in a bucket, below the prefix of the store.

    [ns/<namespace>/]<hash>/<variant>/<uuid>/manifest.json    last: it makes the artifact exist
                                             chunks.table
                                             places.table
    [ns/<namespace>/]packs/<first two>/<BLAKE3 in hex>
    [ns/<namespace>/]writing/<hash>.<variant>.<uuid>          somebody makes that artifact
    checks/<uuid>                                             what preflight tries
    keys.json                                                 the store's wrapped keys

Names that a listing shows and that do not fit are somebody else's, and are passed over.
"""

from __future__ import annotations

import re
import uuid

from chrek import errors
from chrek.remote import backend, keys

HASH = re.compile(r"[0-9a-f]{16}")
NAME = re.compile(r"[0-9a-f-]{1,64}")
"""Of a variant or a uuid."""
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PACK = re.compile(r"[0-9a-f]{64}")
CHECKS = "checks"
NAMESPACES = "ns/"
KEYS = keys.NAME
KEYS_BYTES = 1 << 20
"""The store's wrapped keys are much smaller."""


def read_namespace(path: str) -> str:
    """The namespace of what a listing with a delimiter calls a directory; empty: not one."""
    name = path.removeprefix(NAMESPACES).removesuffix("/")
    return name if path.startswith(NAMESPACES) and NAMESPACE.fullmatch(name) else ""


def root(namespace: str) -> str:
    """Where a namespace's objects are: empty, or with a slash at its end."""
    return f"{NAMESPACES}{_valid(NAMESPACE, namespace)}/" if namespace else ""


def identity(namespace: str, identity_hash: str) -> str:
    """What the names of an identity's artifacts start with."""
    return f"{root(namespace)}{_valid(HASH, identity_hash)}"


def part(key: backend.Key, which: backend.Part) -> str:
    """The name of a part of an artifact."""
    start = identity(key.namespace, key.identity_hash)
    return f"{start}/{_valid(NAME, key.variant)}/{_valid(NAME, key.uuid)}/{which}"


def packs(namespace: str) -> str:
    """What the names of a namespace's packs start with."""
    return f"{root(namespace)}packs"


def pack(namespace: str, name: str) -> str:
    """The name of a pack."""
    return f"{packs(namespace)}/{_valid(PACK, name)[:2]}/{name}"


def writing(namespace: str) -> str:
    """What the names of a namespace's writers start with."""
    return f"{root(namespace)}writing"


def writer(key: backend.Key) -> str:
    """The name that says that an artifact is being made."""
    names = [_valid(HASH, key.identity_hash), _valid(NAME, key.variant), _valid(NAME, key.uuid)]
    return f"{writing(key.namespace)}/{'.'.join(names)}"


def check() -> str:
    """A new name to try things with."""
    return f"{CHECKS}/{uuid.uuid4()}"


def read_identity(namespace: str, path: str) -> str:
    """The hash of what a listing with a delimiter calls a directory; empty: not an identity."""
    name = path.removeprefix(root(namespace)).removesuffix("/")
    return name if path.startswith(root(namespace)) and HASH.fullmatch(name) else ""


def read_part(namespace: str, path: str) -> tuple[backend.Key, backend.Part] | None:
    """The artifact that an object is a part of, and which; None: it is something else."""
    names = _below(root(namespace), path)
    if len(names) != 4 or names[3] not in list(backend.Part):
        return None
    found = _key(namespace, names[:3])
    return (found, backend.Part(names[3])) if found else None


def read_writer(namespace: str, path: str) -> backend.Key | None:
    """The artifact that an object says is being made; None: it is something else."""
    names = _below(f"{writing(namespace)}/", path)
    return _key(namespace, names[0].split(".")) if len(names) == 1 else None


def read_pack(namespace: str, path: str) -> str:
    """The name of the pack that an object is; empty: it is something else."""
    names = _below(f"{packs(namespace)}/", path)
    right = len(names) == 2 and PACK.fullmatch(names[1]) and names[0] == names[1][:2]
    return names[1] if right else ""


def _below(start: str, path: str) -> list[str]:
    return path.removeprefix(start).split("/") if path.startswith(start) else []


def _key(namespace: str, names: list[str]) -> backend.Key | None:
    patterns = (HASH, NAME, NAME)
    if len(names) != 3 or not all(p.fullmatch(n) for p, n in zip(patterns, names, strict=True)):
        return None
    return backend.Key(namespace, *names)


def _valid(pattern: re.Pattern[str], name: str) -> str:
    if not pattern.fullmatch(name):
        raise errors.InputError(f"{name!r} is not a name in the store")
    return name
