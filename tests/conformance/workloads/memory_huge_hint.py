"""Memory that asks for huge pages."""

import hashlib
import mmap
import re


def setup():
    memory = mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    for at in range(0, len(memory), 4096):
        memory[at] = at >> 12 & 255
    return memory


def check(state):
    with open("/proc/self/smaps") as file:
        flags = re.findall(r"VmFlags: (.*)", file.read())
    return {
        "content": hashlib.sha256(state[:]).hexdigest(),
        "asked": sum("hg" in line.split() for line in flags),
    }
