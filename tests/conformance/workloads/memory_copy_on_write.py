"""Pages of a parent and its child that were one until the child wrote."""

import mmap
import os


def setup():
    memory = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(memory), 4096):
        memory[at] = 1
    asked, told = os.pipe(), os.pipe()
    if os.fork() == 0:
        memory[0] = 2
        while os.read(asked[0], 1):
            os.write(told[1], bytes([memory[0], memory[4096]]))
        os._exit(0)
    return memory, asked[1], told[0]


def check(state):
    memory, ask, told = state
    os.write(ask, b".")
    return {"parent": [memory[0], memory[4096]], "child": list(os.read(told, 2))}
