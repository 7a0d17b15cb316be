"""An image of one static program, for pods that the tests talk to."""

from __future__ import annotations

from pathlib import Path

from devcluster import cache, images

REFERENCE = "localhost/chrek-toolbox:1"

APPLETS = ["cat", "echo", "httpd", "mkdir", "nc", "nslookup", "sh", "sleep", "true", "wget"]


def write(where: cache.Cache, path: Path) -> Path:
    """Write the image's archive: busybox of the nodes' root file system."""
    busybox = (where.node_root / "usr/bin/busybox").read_bytes()
    images.write(
        path,
        REFERENCE,
        {"bin/busybox": (busybox, 0o755), "tmp/.keep": (b"", 0o644)},
        ["/bin/sleep", "86400"],
        symlinks={f"bin/{name}": "busybox" for name in APPLETS},
    )
    return path
