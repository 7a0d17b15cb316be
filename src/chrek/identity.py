"""The identity of a checkpoint and its 16-digit hash.

Two workers share a checkpoint when their identity hashes are equal. The hash is the first 16 hex
digits of SHA-256 over compact JSON with the fields in declaration order, optional fields left out
when they are empty, and `<`, `>`, `&`, U+2028 and U+2029 escaped the way Go's encoding/json does:
hashes equal those of published ChReK versions.

`tests/unit/test_identity.py` holds the vectors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import msgspec

from chrek import errors, names

BACKENDS = ("vllm", "sglang", "trtllm")

_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration that changes what is in a ready worker's memory.

    Field order is the order in the hashed text.
    """

    model: str
    backendFramework: str
    dynamoVersion: str = ""
    tensorParallelSize: int = 1
    pipelineParallelSize: int = 1
    dtype: str = ""
    maxModelLen: int = 0
    extraParameters: dict[str, str] = msgspec.field(default_factory=dict)

    def canonical(self) -> str:
        """The text that is hashed."""
        fields: dict[str, object] = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name == "extraParameters":
                value = dict(sorted(value.items(), key=lambda item: item[0].encode()))
            if value or name in ("model", "backendFramework"):
                fields[name] = value
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        return text.translate(_ESCAPES)

    def hash(self) -> str:
        """First 16 hex digits of SHA-256 over `canonical()`."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]


def parse(raw: Mapping[str, object], where: str = "identity") -> Identity:
    """Read an identity as a user writes it.

    Older field names are accepted; 0, "" and {} mean unset.

    Args:
        raw: the object as parsed from YAML or JSON.
        where: path that error messages start with, such as `spec.identity`.

    Raises:
        InputError: naming every field that cannot be used.
    """
    if not isinstance(raw, Mapping):
        raise errors.InputError(
            f"{where}: expected an object, got {type(raw).__name__}",
            hint="write at least `model` and `backendFramework`",
        )
    problems: list[str] = []
    fields: dict[str, object] = {}
    for key, value in raw.items():
        name = names.IDENTITY_ALIASES.get(key, key)
        if name not in Identity.__struct_fields__:
            problems.append(f"{where}.{key}: unknown field")
        elif value is None:
            continue
        elif name in fields and fields[name] != value:
            problems.append(f"{where}.{key}: says {value!r} where {name} says {fields[name]!r}")
        else:
            fields[name] = value
    required = ("model", "backendFramework")
    problems += [f"{where}.{name}: required" for name in required if not fields.get(name)]
    for name, value in fields.items():
        problem = _check(name, value)
        if problem:
            problems.append(f"{where}.{name}: {problem}")
    if problems:
        raise errors.InputError("; ".join(problems), hint="correct the identity")
    for name in ("tensorParallelSize", "pipelineParallelSize"):
        if not fields.get(name):
            fields[name] = 1
    return msgspec.convert(fields, Identity)


def _check(name: str, value: object) -> str:
    if name == "extraParameters":
        if not isinstance(value, Mapping):
            return f"expected an object of strings, got {value!r}"
        bad = [k for k, v in value.items() if not isinstance(k, str) or not isinstance(v, str)]
        if bad:
            return f"values must be strings (quote them): {', '.join(map(str, bad))}"
        return next((p for pair in value.items() if (p := _unencodable("".join(pair)))), "")
    if name in ("tensorParallelSize", "pipelineParallelSize", "maxModelLen"):
        if isinstance(value, bool) or not isinstance(value, int):
            return f"expected a whole number, got {value!r}"
        return f"must be at least 1, got {value}" if value < 0 else ""
    if not isinstance(value, str):
        return f"expected a string, got {value!r} (quote it)"
    if name == "backendFramework" and value and value not in BACKENDS:
        return f"{value!r} is not one of {', '.join(BACKENDS)}"
    return _unencodable(value)


def _unencodable(text: str) -> str:
    """A problem when JSON's escapes made a string that has no UTF-8 form, and so no hash."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{text!r} is not valid Unicode"
    return ""
