"""Variables that the program changed, its name, its working directory and umask."""

import ctypes
import os


def setup():
    os.makedirs("/tmp/deep/er", exist_ok=True)
    os.chdir("/tmp/deep/er")
    os.environ["CHANGED"] = "yes"
    os.umask(0o027)
    ctypes.CDLL(None).prctl(15, b"renamed", 0, 0, 0)  # PR_SET_NAME


def check(state):
    with open("made", "w") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
    return {
        "cwd": os.getcwd(),
        "changed": os.environ["CHANGED"],
        "mode": oct(mode),
        "name": open("/proc/self/comm").read().strip(),
    }
