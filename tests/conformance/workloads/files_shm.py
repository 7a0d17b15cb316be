"""Files of every kind on /dev/shm, and a POSIX semaphore between two processes."""

import multiprocessing
import os


def setup():
    os.mkdir("/dev/shm/folder")
    with open("/dev/shm/folder/file", "w") as file:
        file.write("x" * 100000)
    os.symlink("folder/file", "/dev/shm/link")
    os.mkfifo("/dev/shm/fifo")
    semaphore = multiprocessing.Semaphore(3)
    semaphore.acquire()
    asked, told = os.pipe(), os.pipe()
    if os.fork() == 0:
        while os.read(asked[0], 1):
            got = semaphore.acquire(timeout=5)
            semaphore.release()
            os.write(told[1], b"%d" % got)
        os._exit(0)
    return semaphore, asked[1], told[0]


def check(state):
    semaphore, ask, told = state
    os.write(ask, b".")
    with open("/dev/shm/link") as file:
        size = len(file.read())
    return {
        "child": os.read(told, 10).decode(),
        "value": semaphore.get_value(),
        "size": size,
        "names": sorted(n for n in os.listdir("/dev/shm") if not n.startswith("sem.")),
    }
