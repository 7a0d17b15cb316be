"""A directory of the image that was replaced, one that was renamed, one that was emptied."""

import os
import shutil

OPTIONS = {"user": 0}
EMPTIED = "/etc/pam.d"


def setup():
    shutil.rmtree("/etc/skel")
    os.mkdir("/etc/skel")
    with open("/etc/skel/mine", "w") as file:
        file.write("only this")
    shutil.copytree("/etc/alternatives", "/etc/moved", symlinks=True)
    shutil.rmtree("/etc/alternatives")
    for name in os.listdir(EMPTIED):
        os.unlink(os.path.join(EMPTIED, name))


def check(state):
    return {
        "skel": os.listdir("/etc/skel"),
        "moved": len(os.listdir("/etc/moved")),
        "gone": os.path.exists("/etc/alternatives"),
        "emptied": os.listdir(EMPTIED),
    }
