import random
import struct

import pytest

from chrek import errors
from chrek.criu import seccomp

LOAD_NUMBER, LOAD_ARCH = (0x20, 0, 0, 0), (0x20, 0, 0, 4)
X86_64, I386, X32_BIT = 0xC000003E, 0x40000003, 0x40000000
ALLOW, KILL, EPERM = 0x7FFF0000, 0x80000000, 0x00050001


def assemble(*instructions):
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)


def ret(value):
    return (0x06, 0, 0, value)


def equal(value, then, otherwise):
    return (0x15, then, otherwise, value)


def jump(distance):
    return (0x05, 0, 0, distance)


def run(program, number, arch):
    """What the kernel would do."""
    words = {0: number, 4: arch}
    code = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    while True:
        kind, then, otherwise, value = code[at]
        at += 1
        if kind == 0x06:
            return value
        if kind == 0x20:
            accumulator = words[value]
        elif kind == 0x05:
            at += value
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x45: accumulator & value,
            }
            at += then if holds[kind] else otherwise


# Two placements of one profile: i386 may do 1, x86-64 may do 2, anything else is killed.
I386_FIRST = assemble(
    LOAD_ARCH,
    equal(I386, 1, 0),
    equal(X86_64, 3, 6),
    LOAD_NUMBER,
    equal(1, 5, 0),
    ret(EPERM),
    LOAD_NUMBER,
    equal(2, 2, 0),
    ret(EPERM),
    ret(KILL),
    ret(ALLOW),
)
X86_64_FIRST = assemble(
    LOAD_ARCH,
    equal(X86_64, 1, 0),
    equal(I386, 3, 6),
    LOAD_NUMBER,
    equal(2, 5, 0),
    ret(EPERM),
    LOAD_NUMBER,
    equal(1, 2, 0),
    ret(EPERM),
    ret(KILL),
    ret(ALLOW),
)
CALLS = [(number, arch) for number in range(4) for arch in (X86_64, I386, 7)]


def decisions(program):
    return [run(program, number, arch) for number, arch in CALLS]


def test_blocks_in_another_order_decide_the_same():
    assert I386_FIRST != X86_64_FIRST
    assert decisions(I386_FIRST) == decisions(X86_64_FIRST)
    assert seccomp.canonical(I386_FIRST) == seccomp.canonical(X86_64_FIRST)


def test_detours_do_not_count():
    straight = assemble(LOAD_NUMBER, equal(1, 0, 1), ret(ALLOW), ret(KILL))
    detour = assemble(
        LOAD_NUMBER, equal(1, 0, 2), jump(2), ret(ALLOW), ret(KILL), jump(0), jump(0), ret(ALLOW)
    )
    assert decisions(straight) == decisions(detour)
    assert seccomp.canonical(straight) == seccomp.canonical(detour)


def test_of_equal_comparisons_the_first_counts():
    first = assemble(LOAD_NUMBER, equal(1, 2, 0), equal(1, 0, 2), ret(ALLOW), ret(KILL), ret(EPERM))
    second = assemble(LOAD_NUMBER, equal(1, 1, 2), ret(ALLOW), ret(KILL), ret(EPERM))
    assert decisions(first) == decisions(second)
    assert seccomp.canonical(first) == seccomp.canonical(second)


@pytest.mark.parametrize("seed", range(300))
def test_what_decides_otherwise_is_never_equal(seed):
    """The guarantee that the check of privileges stands on."""
    draw = random.Random(seed)
    code = list(struct.iter_unpack("<HBBI", I386_FIRST))
    at = draw.randrange(len(code))
    kind, then, otherwise, value = code[at]
    field = draw.randrange(4)
    if field == 0:
        kind = draw.choice([0x06, 0x15, 0x25, 0x45, 0x20])
        value = 4 if kind == 0x20 else value
    elif field == 1:
        then = draw.randrange(len(code) - at)
    elif field == 2:
        otherwise = draw.randrange(len(code) - at)
    else:
        value = draw.choice([0, 1, 2, 3, 4, ALLOW, KILL, X86_64, I386])
        if kind == 0x20:
            value = draw.choice([0, 4])
    code[at] = (kind, then, otherwise, value)
    changed = assemble(*code)
    try:
        digest = seccomp.canonical(changed)
        outcome = decisions(changed)
    except (errors.ArtifactError, IndexError):
        return
    if digest == seccomp.canonical(I386_FIRST):
        assert outcome == decisions(I386_FIRST)


@pytest.mark.parametrize(
    ("found", "other"),
    [(ALLOW, KILL), (KILL, EPERM)],
)
def test_another_answer_is_another_filter(found, other):
    assert seccomp.canonical(assemble(ret(found))) != seccomp.canonical(assemble(ret(other)))


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"\0" * 7,
        assemble(LOAD_ARCH),
        assemble(jump(0)),
        assemble(jump(0xFFFFFFFF), ret(ALLOW)),
        assemble(equal(1, 0, 1), ret(ALLOW)),
        assemble(*[ret(ALLOW)] * 4097),
    ],
)
def test_what_the_kernel_would_not_load(program):
    with pytest.raises(errors.ArtifactError, match="a seccomp filter"):
        seccomp.canonical(program)


def test_a_hostile_filter_of_the_largest_size_takes_no_time():
    chain = [equal(number, 0, 0) for number in range(4095)]
    assert len(seccomp.canonical(assemble(*chain, ret(ALLOW)))) == 32
