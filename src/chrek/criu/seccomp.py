"""Whether two seccomp filters decide the same.

libseccomp does not place the blocks of a filter's architectures in the same order in every process
that loads it, so filters of one profile differ byte by byte between two containers. `canonical`
follows the jumps instead: filters with equal results decide the same for every system call. The
reverse does not hold, and need not: an unequal filter is refused.
Source: seccomp(2), "BPF" in Linux' Documentation/networking/filter.rst.
"""

from __future__ import annotations

import functools
import hashlib
import struct

from chrek import errors

_INSTRUCTION = struct.Struct("<HBBI")
_CLASS = 0x07
_JUMP = 0x05
_RETURN = 0x06
_ALWAYS = 0x05
_IF_EQUAL = 0x15
MOST_INSTRUCTIONS = 4096
"""The kernel's BPF_MAXINSNS."""
_MOST_CASES = 64
"""Comparisons in a row that are taken as a set; there are as many as architectures."""


@functools.lru_cache(maxsize=256)
def canonical(program: bytes) -> bytes:
    """A digest of what a filter decides, whatever the order of its blocks.

    Remembered, because all threads of a worker have the same few filters.

    Args:
        program: its instructions, as the kernel has them.

    Raises:
        ArtifactError: it is no filter that the kernel would load.
    """
    length, odd = divmod(len(program), _INSTRUCTION.size)
    if odd or not 0 < length <= MOST_INSTRUCTIONS:
        raise errors.ArtifactError(f"a seccomp filter of {len(program)} bytes")
    # Jumps lead forward only: from the end, whatever an instruction leads to is known already.
    digests: list[bytes] = [b""] * length
    same_as = list(range(length))
    choices: dict[int, tuple[dict[int, bytes], bytes]] = {}
    for at, (code, if_true, if_false, value) in reversed(
        list(enumerate(_INSTRUCTION.iter_unpack(program)))
    ):

        def target(distance: int, at: int = at) -> int:
            if at + 1 + distance >= length:
                raise errors.ArtifactError(f"a seccomp filter leaves itself at {at}")
            return same_as[at + 1 + distance]

        if code & _CLASS == _RETURN:
            parts = [b"return", _INSTRUCTION.pack(code, 0, 0, value)]
        elif code == _ALWAYS:
            same_as[at] = target(value)
            continue
        elif code == _IF_EQUAL:
            choices[at] = _choice(value, target(if_true), target(if_false), digests, choices)
            cases, otherwise = choices[at]
            parts = [b"choice", otherwise]
            parts += [value.to_bytes(4, "little") + cases[value] for value in sorted(cases)]
        elif code & _CLASS == _JUMP:
            parts = [b"jump", _INSTRUCTION.pack(code, 0, 0, value)]
            parts += [digests[target(if_true)], digests[target(if_false)]]
        else:
            parts = [b"step", _INSTRUCTION.pack(code, if_true, if_false, value)]
            parts.append(digests[target(0)])
        digests[at] = hashlib.sha256(b"".join(parts)).digest()
    return digests[same_as[0]]


def _choice(
    value: int,
    then: int,
    otherwise: int,
    digests: list[bytes],
    choices: dict[int, tuple[dict[int, bytes], bytes]],
) -> tuple[dict[int, bytes], bytes]:
    """Comparisons of one word with several values, as `value -> what follows`, and the rest.

    Which value is compared first does not matter, except that of equal ones the first counts.
    """
    cases, rest = choices.get(otherwise, ({}, digests[otherwise]))
    if len(cases) >= _MOST_CASES:
        cases, rest = {}, digests[otherwise]
    return {**cases, value: digests[then]}, rest
