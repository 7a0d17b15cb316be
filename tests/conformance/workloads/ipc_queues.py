"""System V semaphores and message queues with messages of several types."""

import ctypes
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
CREATE, NOWAIT, SETVAL, GETVAL = 0o1000, 0o4000, 16, 12


def send(queue, kind, text):
    if LIBC.msgsnd(queue, struct.pack("l", kind) + text, len(text), NOWAIT):
        raise OSError(ctypes.get_errno(), "msgsnd")


def receive(queue, kind):
    space = ctypes.create_string_buffer(100)
    size = LIBC.msgrcv(queue, space, 92, kind, NOWAIT)
    if size < 0:
        raise OSError(ctypes.get_errno(), "msgrcv")
    return space.raw[8 : 8 + size]


def setup():
    queue = LIBC.msgget(77, CREATE | 0o600)
    for kind, text in ((1, b"one"), (2, b"two"), (1, b"three")):
        send(queue, kind, text)
    semaphores = LIBC.semget(78, 3, CREATE | 0o600)
    for number, value in enumerate((5, 0, 9)):
        LIBC.semctl(semaphores, number, SETVAL, value)
    return queue, semaphores


def check(state):
    queue, semaphores = state
    said = [receive(queue, 2), receive(queue, 0), receive(queue, 0)]
    for kind, text in ((1, b"one"), (2, b"two"), (1, b"three")):
        send(queue, kind, text)
    return {
        "said": [part.decode() for part in said],
        "queue": queue == LIBC.msgget(77, 0),
        "semaphores": [LIBC.semctl(semaphores, number, GETVAL) for number in range(3)],
    }
