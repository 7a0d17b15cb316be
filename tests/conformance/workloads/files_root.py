"""The root file system's changes: added, changed, deleted, links, holes, owners, modes, times."""

import hashlib
import os

OPTIONS = {"user": 0}


def setup():
    os.makedirs("/srv/new/deep", mode=0o750)
    with open("/srv/new/deep/file", "w") as file:
        file.write("added")
    os.chmod("/srv/new/deep/file", 0o4711)  # noqa: S103 - set-user-ID must come back
    os.chown("/srv/new/deep/file", 1234, 5678)
    os.chmod("/srv/new/deep/file", 0o4711)  # noqa: S103 - set-user-ID must come back
    os.link("/srv/new/deep/file", "/srv/new/hard")
    os.symlink("deep/file", "/srv/new/soft")
    with open("/srv/new/sparse", "wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
    with open("/etc/passwd", "a") as file:
        file.write("added:x:1:1::/:/bin/false\n")
    os.unlink("/etc/issue")
    os.utime("/srv/new/soft", (5, 5), follow_symlinks=False)
    os.utime("/srv/new/deep/file", (7, 7))
    os.setxattr("/srv/new/deep/file", "user.note", b"kept")


def check(state):
    found = {}
    for path in (
        "/srv/new",
        "/srv/new/deep",
        "/srv/new/deep/file",
        "/srv/new/hard",
        "/srv/new/soft",
        "/srv/new/sparse",
        "/etc/passwd",
    ):
        info = os.lstat(path)
        found[path] = [
            oct(info.st_mode),
            info.st_uid,
            info.st_gid,
            info.st_nlink,
            info.st_size,
            info.st_mtime if path != "/etc/passwd" else 0,
        ]
        if not os.path.isdir(path):
            with open(path, "rb") as file:
                found[path].append(hashlib.sha256(file.read()).hexdigest()[:8])
    found["issue"] = os.path.exists("/etc/issue")
    found["xattr"] = os.getxattr("/srv/new/deep/file", "user.note").decode()
    found["same"] = os.stat("/srv/new/hard").st_ino == os.stat("/srv/new/deep/file").st_ino
    found["blocks"] = os.stat("/srv/new/sparse").st_blocks < 1000
    return found
