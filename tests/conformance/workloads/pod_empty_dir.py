"""emptyDirs on disk and in memory: files, an open one, and what was mapped."""

import mmap
import os

OPTIONS = {"pod_only": True, "volumes": {"/scratch": "emptyDir", "/fast": "memory"}}


def setup():
    held = []
    for folder in ("/scratch", "/fast"):
        os.makedirs(f"{folder}/deep")
        fd = os.open(f"{folder}/deep/file", os.O_CREAT | os.O_RDWR, 0o640)
        os.write(fd, b"x" * 8192)
        mapped = mmap.mmap(fd, 0)
        mapped[5000] = 7
        os.symlink("deep/file", f"{folder}/link")
        held.append((fd, mapped))
    return held


def check(state):
    found = []
    for folder, (fd, mapped) in zip(("/scratch", "/fast"), state, strict=True):
        with open(f"{folder}/link", "rb") as file:
            content = file.read()
        info = os.stat(f"{folder}/deep/file")
        same = os.fstat(fd).st_ino == info.st_ino
        found.append([len(content), content[5000], mapped[5000], oct(info.st_mode), same])
    return {"found": found}
