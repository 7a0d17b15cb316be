"""What the kernel says about a process: the agent believes this and nothing else.

All pids here are host pids (the agent runs with hostPID). A pidfd held by the caller makes sure
that the files read belong to the same process before and after.

Source: proc(5), cgroups(7), pid_namespaces(7).
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import pathlib
import re

PROC = pathlib.Path("/proc")
NAMESPACES = ("mnt", "uts", "ipc", "net", "pid", "cgroup", "user")

_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
_STATIC_POD = re.compile(r"[/-]pod([0-9a-f]{32})(?:\.slice)?/")
_CONTAINER = re.compile(r"([0-9a-f]{64})(?:\.scope)?(?:/|$)")
_TERMINATION_LOG = re.compile(r"/pods/[^/]+/containers/([^/]+)/[0-9a-f]+$")


@dataclasses.dataclass(frozen=True)
class Status:
    """Fields of /proc/PID/status that matter here."""

    name: str
    state: str
    ppid: int
    nspids: tuple[int, ...]
    """The pid in every PID namespace, from the reader's inwards."""
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: dict[str, int]
    """CapInh, CapPrm, CapEff, CapBnd, CapAmb as bit masks."""
    no_new_privs: bool
    seccomp_mode: int
    seccomp_filters: int
    caught_signals: frozenset[int] = frozenset()
    """Those that the process has a handler for."""


@dataclasses.dataclass(frozen=True)
class Mount:
    """One line of /proc/PID/mountinfo."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    options: tuple[str, ...]
    fs_type: str
    source: str
    super_options: tuple[str, ...]

    def option(self, key: str) -> str | None:
        """The value of `key=value` among the file system's own options."""
        prefix = f"{key}="
        return next((o[len(prefix) :] for o in self.super_options if o.startswith(prefix)), None)

    @property
    def read_only(self) -> bool:
        """Whether this mount or its file system is read-only."""
        return "ro" in self.options or "ro" in self.super_options


def status(pid: int) -> Status:
    """Read /proc/PID/status.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        # A process's name is any bytes, such as UTF-8 that was cut inside a character.
        lines = (PROC / str(pid) / "status").read_text(errors="replace").split("\n")
    except FileNotFoundError as err:
        raise ProcessLookupError(pid) from err
    fields = dict(line.split(":", 1) for line in lines if ":" in line)

    def numbers(key: str) -> tuple[int, ...]:
        return tuple(int(word) for word in fields.get(key, "").split())

    return Status(
        name=fields["Name"].strip(),
        state=fields["State"].split()[0],
        ppid=int(fields["PPid"]),
        nspids=numbers("NSpid"),
        uids=numbers("Uid"),
        gids=numbers("Gid"),
        groups=numbers("Groups"),
        capabilities={
            key: int(fields[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        },
        no_new_privs=fields.get("NoNewPrivs", "0").strip() == "1",
        seccomp_mode=int(fields.get("Seccomp", "0")),
        seccomp_filters=int(fields.get("Seccomp_filters", "0")),
        caught_signals=_signals(int(fields.get("SigCgt", "0"), 16)),
    )


def _signals(mask: int) -> frozenset[int]:
    return frozenset(number for number in range(1, 65) if mask >> (number - 1) & 1)


def environment(pid: int, *, most_bytes: int = -1) -> list[tuple[bytes, bytes]]:
    """(name, value) of the variables that a process was started with, in their order.

    Args:
        most_bytes: so much is read; all of it without.
    """
    with open(PROC / str(pid) / "environ", "rb") as file:
        data = file.read(most_bytes)
    entries = (entry.partition(b"=") for entry in data.split(b"\0"))
    return [(name, value) for name, equals, value in entries if equals and name]


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text) if "\\" in text else text


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse the text of a mountinfo file."""
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        words, tail = left.split(" "), right.split(" ")
        mounts.append(
            Mount(
                mount_id=int(words[0]),
                parent_id=int(words[1]),
                device=words[2],
                root=_unescape(words[3]),
                mount_point=_unescape(words[4]),
                options=tuple(words[5].split(",")),
                fs_type=tail[0],
                source=_unescape(tail[1]),
                super_options=tuple(tail[2].split(",")) if len(tail) > 2 else (),
            )
        )
    return mounts


def mounts(pid: int) -> list[Mount]:
    """The mounts of a process's mount namespace, in mount order."""
    return parse_mountinfo((PROC / str(pid) / "mountinfo").read_text())


def cgroups(pid: int) -> dict[str, str]:
    """Mapping controller list ("" for version 2) -> path, from /proc/PID/cgroup."""
    found = {}
    for line in (PROC / str(pid) / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found[controllers] = path
    return found


def pod_and_container(pid: int) -> tuple[str, str] | None:
    """Pod UID and container ID that a process's cgroups name; None outside of any pod.

    Understands the kubelet's cgroupfs (`/kubepods/burstable/pod<uid>/<id>`) and systemd
    (`kubepods-burstable-pod<uid_>.slice/cri-containerd-<id>.scope`) drivers.
    """
    for path in cgroups(pid).values():
        pod = _POD.search(path) or _STATIC_POD.search(path)
        container = _CONTAINER.search(path)
        if pod and container:
            return pod[1].replace("_", "-"), container[1]
    return None


def container_name(pid: int) -> str | None:
    """Name of the container that a process is in, from the kubelet's termination-log mount."""
    for mount in mounts(pid):
        match = _TERMINATION_LOG.search(mount.root)
        if match:
            return match[1]
    return None


def namespace(pid: int, kind: str) -> int:
    """Inode number of a namespace of a process."""
    return os.stat(PROC / str(pid) / "ns" / kind).st_ino


def lsm_label(pid: int) -> str:
    """The label that AppArmor or SELinux holds a process to; empty without one.

    Source: apparmor(7), selinux(8): `profile (mode)` and `user:role:type:level`.
    """
    for name in ("attr/apparmor/current", "attr/current"):
        try:
            text = (PROC / str(pid) / name).read_bytes()
        except OSError:  # EINVAL: no such module is in force.
            continue
        label = text.rstrip(b"\0\n").decode(errors="replace")
        profile = re.sub(r" \([a-z]+\)$", "", label)
        return "" if profile == "unconfined" else profile
    return ""


def uses_apparmor(pid: int) -> bool:
    """Whether a process's label is AppArmor's."""
    enabled = pathlib.Path("/sys/module/apparmor/parameters/enabled")
    if (PROC / str(pid) / "attr/apparmor/current").exists():
        return True
    return enabled.exists() and enabled.read_text().strip() == "Y"


def addresses(pid: int) -> list[str]:
    """Addresses of a process's network namespace: IPv4 then IPv6, no loopback, no link-local.

    Source: /proc/PID/net/fib_trie (`/32 host LOCAL` entries) and /proc/PID/net/if_inet6.
    """
    found: list[str] = []
    last = ""
    for line in (PROC / str(pid) / "net/fib_trie").read_text().splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"] and not last.startswith("127."):
            found.append(last)
    with contextlib.suppress(FileNotFoundError):
        for line in (PROC / str(pid) / "net/if_inet6").read_text().splitlines():
            digits, _, _, scope, *_ = line.split()
            if scope == "00":
                found.append(str(ipaddress.IPv6Address(int(digits, 16))))
    return list(dict.fromkeys(found))


def children(pid: int) -> list[int]:
    """Direct children of all threads of a process."""
    found: list[int] = []
    for task in (PROC / str(pid) / "task").iterdir():
        try:
            found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for member in found:
        try:
            found += children(member)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def in_pid_namespace(pid: int) -> list[int]:
    """All processes of the PID namespace that `pid` is in."""
    inode = namespace(pid, "pid")
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                if namespace(int(entry.name), "pid") == inode:
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


def start_time_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot: with the pid it names it for good."""
    text = (PROC / str(pid) / "stat").read_text(errors="replace")
    return int(text.rpartition(")")[2].split()[19])
