"""Alternate signal stacks, of the first thread and of another one."""

import ctypes
import mmap
import queue
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
SIZE = 64 << 10


class Stack(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


def install():
    memory = mmap.mmap(-1, SIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    wanted = Stack(address, 0, SIZE)
    assert LIBC.sigaltstack(ctypes.byref(wanted), None) == 0
    return memory, address


def current():
    found = Stack()
    assert LIBC.sigaltstack(None, ctypes.byref(found)) == 0
    return [found.address, found.flags, found.size]


def setup():
    questions, answers = queue.Queue(), queue.Queue()

    def other():
        memory, address = install()
        answers.put(address)
        while questions.get():
            answers.put(current())
        del memory

    threading.Thread(target=other, daemon=True).start()
    return {"own": install(), "other": answers.get(), "questions": questions, "answers": answers}


def check(state):
    state["questions"].put(True)
    return {
        "first": current() == [state["own"][1], 0, SIZE],
        "other": state["answers"].get() == [state["other"], 0, SIZE],
    }


def compare(before, after):
    assert before == after == {"first": True, "other": True}
