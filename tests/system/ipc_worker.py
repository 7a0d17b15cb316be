"""The worker of the tests of IPC objects: makes them, then answers expressions over TCP."""

import ctypes
import mmap
import os
import signal
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p
CREATE, NOWAIT, SETVAL, GETVAL, STAT = 0o1000, 0o4000, 16, 12, 2


def made(number):
    if number < 0:
        raise OSError(ctypes.get_errno(), "no such object")
    return number


def attach(number):
    return ctypes.cast(LIBC.shmat(made(number), None, 0), ctypes.POINTER(ctypes.c_char * 8192))


def read(segment):
    return bytes(segment.contents).rstrip(b"\0").decode()


def write(segment, text):
    ctypes.memmove(segment, text, len(text))
    return len(text)


def send(queue, kind, text):
    data = kind.to_bytes(8, "little") + text
    return LIBC.msgsnd(queue, data, len(text), NOWAIT)


def receive(queue, kind):
    space = ctypes.create_string_buffer(108)
    size = LIBC.msgrcv(queue, space, 100, kind, NOWAIT)
    return space.raw[8 : 8 + size].decode() if size >= 0 else None


def limit(queue, value=None):
    words = (ctypes.c_ulong * 30)()
    made(LIBC.msgctl(queue, STAT, words))
    if value is not None:
        words[11] = value
        made(LIBC.msgctl(queue, 1, words))
    return words[11]


class Attributes(ctypes.Structure):
    _fields_ = [(n, ctypes.c_long) for n in ("flags", "most", "size", "now")] + [
        ("reserved", ctypes.c_long * 4)
    ]


def posix(name, most, size):
    wanted = Attributes(most=most, size=size)
    return made(LIBC.mq_open(name, os.O_RDWR | os.O_CREAT, 0o640, ctypes.byref(wanted)))


def attributes(fd):
    now = Attributes()
    made(LIBC.mq_getattr(fd, ctypes.byref(now)))
    return [now.flags, now.most, now.size, now.now]


def take(fd):
    space, priority = ctypes.create_string_buffer(8192), ctypes.c_uint()
    size = made(LIBC.mq_receive(fd, space, 8192, ctypes.byref(priority)))
    return space.raw[:size].decode(), priority.value


def setup_shared():
    keyed, private, gone, far = (
        made(LIBC.shmget(key, 8192, CREATE | 0o600)) for key in (4711, 0, 0, 4712)
    )
    kept, removed = attach(keyed), attach(gone)
    LIBC.shmctl(gone, 0, None)
    for place, text in ((kept, b"keyed"), (removed, b"gone")):
        write(place, text)
    for number, text in ((private, b"private"), (far, b"unattached")):
        place = attach(number)
        write(place, text)
        LIBC.shmdt(place)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGUSR1, lambda *_: write(kept, b"child"))
        while True:
            signal.pause()
    return locals()


def setup_queues():
    queue = made(LIBC.msgget(77, CREATE | 0o640))
    limit(queue, 4096)
    for kind, text in ((1, b"one"), (2, b"two"), (1, b"three")):
        send(queue, kind, text)
    semaphores = made(LIBC.semget(78, 2, CREATE | 0o600))
    LIBC.semctl(semaphores, 0, SETVAL, 5)
    # Takes two, to be given back at the end: SEM_UNDO.
    operation = (ctypes.c_short * 3)(0, -2, 0o10000)
    LIBC.semop(semaphores, operation, 1)
    return locals()


def setup_posix():
    fd = posix(b"/first", 5, 64)
    for priority, text in ((1, b"low"), (9, b"high"), (1, b"lower")):
        LIBC.mq_send(fd, text, len(text), priority)
    reader = made(LIBC.mq_open(b"/first", os.O_RDONLY | os.O_NONBLOCK))
    by_path = os.open("/dev/mqueue/first", os.O_RDWR)
    os.close(posix(b"/second", 3, 32))
    return locals()


def setup_notified():
    fd = posix(b"/first", 5, 64)
    made(LIBC.mq_notify(fd, (ctypes.c_int * 16)(0, 0, signal.SIGUSR1, 0)))
    return locals()


def setup_hugetlb():
    kept = made(LIBC.shmget(0, 2 << 20, CREATE | 0o4000 | 0o10000 | 0o600))
    return locals()


def setup_mapped():
    kept = mmap.mmap(-1, 2 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x44000)
    return locals()


def setup_memfd():
    kept = os.memfd_create("huge", 4)
    return locals()


def setup_everything():
    return {**setup_shared(), **setup_queues(), **setup_posix()}


def setup_none():
    return {}


globals().update({"setup_" + sys.argv[1]: None, **globals()["setup_" + sys.argv[1]]()})
server = socket.create_server(("127.0.0.1", 8000))
print("worker ready", flush=True)
while True:
    connection, _ = server.accept()
    with connection, connection.makefile("rw") as stream:
        try:
            answer = repr(eval(stream.readline()))  # noqa: S307
        except OSError as err:
            answer = f"OSError {err}"
        stream.write(answer + "\n")
