"""POSIX message queues: messages of several priorities, descriptors by name and by path."""

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
NAME = b"/conformance"
OPTIONS = {"differs": {r"fds/\d+/target: '/conformance'": "mq_open's path is below no mount"}}


class Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("flags", "most", "size", "now")]
    _fields_ += [("reserved", ctypes.c_long * 4)]


def send(queue, messages):
    for priority, text in messages:
        if LIBC.mq_send(queue, text, len(text), priority):
            raise OSError(ctypes.get_errno(), "mq_send")


def receive(queue, count):
    space, priority = ctypes.create_string_buffer(64), ctypes.c_uint()
    found = []
    for _ in range(count):
        size = LIBC.mq_receive(queue, space, 64, ctypes.byref(priority))
        if size < 0:
            raise OSError(ctypes.get_errno(), "mq_receive")
        found.append((priority.value, space.raw[:size]))
    return found


def attributes(queue):
    now = Attributes()
    LIBC.mq_getattr(queue, ctypes.byref(now))
    return [now.flags, now.most, now.size, now.now]


def setup():
    wanted = Attributes(most=4, size=64)
    queue = LIBC.mq_open(NAME, os.O_RDWR | os.O_CREAT, 0o640, ctypes.byref(wanted))
    if queue < 0:
        raise OSError(ctypes.get_errno(), "mq_open")
    send(queue, [(1, b"low"), (7, b"high"), (1, b"lower")])
    waits_not = LIBC.mq_open(NAME, os.O_RDONLY | os.O_NONBLOCK)
    return queue, waits_not, os.open("/dev/mqueue" + NAME.decode(), os.O_RDWR)


def check(state):
    messages = receive(state[0], 3)
    send(state[2], messages)
    return {
        "messages": [[priority, text.decode()] for priority, text in messages],
        "attributes": [attributes(queue) for queue in state],
    }
