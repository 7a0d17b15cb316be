"""Files that were deleted while open: a small one, a large one, one that never had a name."""

import os


def setup():
    fds = []
    for size in (10, 3 << 20):
        fd = os.open("/tmp/deleted", os.O_CREAT | os.O_RDWR, 0o640)
        os.write(fd, os.urandom(1) * size)
        os.unlink("/tmp/deleted")
        fds.append(fd)
    fds.append(os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600))
    os.write(fds[-1], b"nameless")
    return fds


def check(state):
    found = []
    for fd in state:
        content = os.pread(fd, 4 << 20, 0)
        info = os.fstat(fd)
        found.append((len(content), len(set(content)), oct(info.st_mode), info.st_nlink))
    return {"found": found, "names": sorted(os.listdir("/tmp"))}
