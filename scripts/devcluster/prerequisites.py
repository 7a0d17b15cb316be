"""The programs of the host that a command needs."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from devcluster import commands, errors, steps

GO_AT_LEAST = (1, 21)
"""The first Go that fetches the newer one a module asks for."""

PACKAGES = {
    "go": "golang-go",
    "git": "git",
    "debootstrap": "debootstrap",
    "openssl": "openssl",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "tar": "tar",
    "modprobe": "kmod",
}
"""The Debian package of each program."""

FOR_TOOLS = ["go"]
FOR_ROOTS = ["debootstrap", "tar", "mount"]
FOR_CLUSTER = ["openssl", "ip", "unshare", "nsenter", "mount"]


def ensure(programs: list[str]) -> None:
    """See that the programs are there; as root on Debian and its kin, install what is not.

    Raises:
        ClusterError: something is missing and cannot be installed; all of it is named.
    """
    absent = commands.missing(programs)
    if absent and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = sorted({PACKAGES[name] for name in absent})
        with steps.step(f"Install {', '.join(packages)}"):
            options = ["-o", "Acquire::Check-Valid-Until=false"]
            quiet = {"DEBIAN_FRONTEND": "noninteractive"}
            commands.run(["apt-get", *options, "update"], env=quiet)
            commands.run(
                ["apt-get", *options, "install", "--yes", "--no-install-recommends", *packages],
                env=quiet,
            )
        absent = commands.missing(programs)
    if absent:
        packages = sorted({PACKAGES[name] for name in absent})
        raise errors.ClusterError(
            f"missing programs: {', '.join(absent)}",
            hint=f"install them (on Debian the packages are: {' '.join(packages)})",
        )
    if "go" in programs:
        _check_go()


def require_root(command: str) -> None:
    """Namespaces, mounts, and links are root's to make."""
    if os.geteuid() != 0:
        raise errors.ClusterError(
            f"'{command}' needs root, and this is user {os.geteuid()}",
            hint=f"run: sudo --preserve-env=CHREK_CACHE scripts/cluster {command}",
        )


def load_kernel_modules() -> None:
    """Load what a node uses where it is a module; the kernel may have it built in."""
    if shutil.which("modprobe"):
        for module in ("overlay", "br_netfilter", "nf_tables", "veth"):
            commands.succeeds(["modprobe", "--quiet", module])
    if not re.search(r"\boverlay$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        raise errors.ClusterError("the kernel has no overlay file system")


def _check_go() -> None:
    text = commands.run(["go", "env", "GOVERSION"]).strip()
    match = re.match(r"go(\d+)\.(\d+)", text)
    if match and (int(match[1]), int(match[2])) < GO_AT_LEAST:
        raise errors.ClusterError(
            f"Go is {text}, older than {'.'.join(map(str, GO_AT_LEAST))}",
            hint="install a newer Go and put it first on PATH",
        )
