"""Files opened in several ways: append, read-only, path, directory, close-on-exec, nonblocking."""

import fcntl
import os

IGNORED = 0o100000 | os.O_DIRECTORY  # of the way it was opened; it changes nothing later
WAYS = (os.O_WRONLY | os.O_APPEND, os.O_RDONLY, os.O_PATH, os.O_RDWR | os.O_NONBLOCK)


def setup():
    with open("/tmp/opened", "w") as file:
        file.write("abc")
    fds = [os.open("/tmp/opened", way | os.O_CLOEXEC) for way in WAYS]
    directory = os.open("/tmp", os.O_DIRECTORY)
    os.set_inheritable(directory, True)
    os.lseek(fds[1], 2, os.SEEK_SET)
    return [*fds, directory]


def check(state):
    os.write(state[0], b"d")
    return {
        "flags": [fcntl.fcntl(fd, fcntl.F_GETFL) & ~IGNORED for fd in state],
        "inheritable": [os.get_inheritable(fd) for fd in state],
        "offset": os.lseek(state[1], 0, os.SEEK_CUR),
        "last": os.pread(state[1], 1, os.fstat(state[1]).st_size - 1).decode(),
    }
