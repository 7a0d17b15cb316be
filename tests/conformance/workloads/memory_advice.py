"""What madvise says of memory: kept from children, wiped in them, mergeable, not dumped."""

import mmap
import os

WIPE_ON_FORK = 18
ADVICE = {
    "kept from children": mmap.MADV_DONTFORK,
    "wiped in children": WIPE_ON_FORK,
    "mergeable": mmap.MADV_MERGEABLE,
    "not dumped": mmap.MADV_DONTDUMP,
}
FLAGS = {"dc", "wf", "mg", "dd"}


def setup():
    made = {}
    for name, advice in ADVICE.items():
        memory = mmap.mmap(-1, 64 << 10, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(advice)
        memory[:] = b"x" * len(memory)
        made[name] = memory
    return made


def check(state):
    return {
        "content": {name: memory[:] == b"x" * len(memory) for name, memory in state.items()},
        "in a child": {name: in_child(memory) for name, memory in state.items()},
        "flags": sorted(set(flags())),
    }


def in_child(memory):
    """The first byte that a child sees, or the signal that it gets."""
    child = os.fork()
    if child == 0:
        os._exit(memory[0])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def flags():
    with open("/proc/self/smaps") as file:
        for line in file:
            if line.startswith("VmFlags:"):
                yield from FLAGS.intersection(line.split())


def compare(before, after):
    assert before == after
    assert before["in a child"]["kept from children"] == -11  # SIGSEGV
    assert before["in a child"]["wiped in children"] == 0
    assert before["flags"] == sorted(FLAGS)
