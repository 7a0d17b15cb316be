"""What of a process tree is visible from outside, in a form that two containers can be compared by.

As CRIU's own tests do it (test/zdtm.py): descriptors, mappings, credentials and so on of every
process, by its pid in the container. What has no meaning in itself, such as an inode number, is
replaced by a count of its appearance.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path
from typing import Any

from chrek import procfs

Object = dict[str, Any]

STATUS = (
    *("Name", "Umask", "State", "Uid", "Gid", "Groups", "NSpid", "NSpgid", "NSsid", "Threads"),
    *("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd"),
    *("CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"),
)
"""Lines of /proc/PID/status that are compared."""
FDINFO = ("flags", "pos", "eventfd-count", "sigmask", "clockid", "tfd", "inotify", "lock")
FOR_OPENING = 0o100000 | os.O_DIRECTORY | os.O_TMPFILE
"""Flags that say how a file was opened (O_LARGEFILE, …) and change nothing afterwards."""
FROM_NAMESPACE = ("NSpid", "NSpgid", "NSsid")
_NUMBERED = re.compile(r"^(socket|pipe):\[(\d+)\]$")
_REMAPPED = re.compile(r"(\.cr\.[0-9a-f]+\.ghost|link_remap\.\d+)")


def of(init_pid: int) -> Object:
    """The view of everything below a container's PID 1, by pid in the container."""
    numbers: dict[str, int] = {}
    found = {}
    pids = [pid for pid in procfs.in_pid_namespace(init_pid) if pid != init_pid]
    for pid in sorted(pids, key=lambda one: procfs.status(one).nspids[-1]):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            inner = procfs.status(pid).nspids[-1]
            found[str(inner)] = process(Path(f"/proc/{pid}"), numbers)
    return found


def settled(init_pid: int, seconds: float = 5) -> Object:
    """The view once two in a row are equal: what answered the last question has come to rest."""
    deadline, last = time.monotonic() + seconds, of(init_pid)
    while True:
        time.sleep(0.02)
        now = of(init_pid)
        if now == last or time.monotonic() > deadline:
            return now
        last = now


def process(path: Path, numbers: dict[str, int]) -> Object:
    """The view of one process; `numbers` are those of sockets and pipes seen so far."""
    status = _status(path)
    state = status["State"] = status["State"][:1].replace("R", "S").replace("D", "S")
    if state == "Z":
        # Of what has ended only this is of use to anybody; CRIU restores no more.
        return {"status": {name: status[name] for name in ("Name", "State", "NSpid", "PPid")}}
    return {
        "status": status,
        "cmdline": (path / "cmdline").read_bytes().decode(errors="replace"),
        "environ": (path / "environ").read_bytes().decode(errors="replace"),
        **{name: _link(path / name) for name in ("exe", "cwd", "root")},
        "threads": sorted(_threads(path)),
        "limits": (path / "limits").read_text(),
        "oom_score_adj": (path / "oom_score_adj").read_text(),
        "personality": (path / "personality").read_text(),
        "timers": _timers(path),
        "fds": {name: _descriptor(path, name, numbers) for name in _names(path / "fd")},
        "maps": _maps(path),
    }


def _status(path: Path) -> dict[str, str]:
    found = {}
    for line in (path / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in STATUS:
            words = value.split()
            # In the container's own terms: the outer namespaces come first.
            found[name] = words[-1] if name in FROM_NAMESPACE else " ".join(words)
    parent = procfs.status(int(path.name)).ppid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        found["PPid"] = str(procfs.status(parent).nspids[-1])
    return found


def _threads(path: Path) -> list[str]:
    found = []
    for task in (path / "task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = _status_of_thread(task)
            found.append(f"{status[0]} {status[1]}")
    return found


def _status_of_thread(task: Path) -> tuple[int, str]:
    text = (task / "status").read_text()
    inner = int(re.findall(r"^NSpid:\s.*?(\d+)$", text, re.MULTILINE)[0])
    return inner, (task / "comm").read_text().strip()


def _timers(path: Path) -> str:
    text = (path / "timers").read_text()
    # The process that is told, as this machine counts.
    return re.sub(r"(notify: \S+)/(pid|tid)\.\d+", r"\1/\2", text)


def _names(path: Path) -> list[str]:
    return sorted(os.listdir(path), key=int)


def _link(path: Path) -> str:
    return _REMAPPED.sub("REMAPPED", os.readlink(path))


def _descriptor(path: Path, name: str, numbers: dict[str, int]) -> Object:
    target = os.readlink(path / "fd" / name)
    numbered = _NUMBERED.match(target)
    if numbered:
        number = numbers.setdefault(target, len(numbers))
        target = f"{numbered[1]}:#{number}"
    found: Object = {"target": _REMAPPED.sub("REMAPPED", target)}
    for line in (path / "fdinfo" / name).read_text().splitlines():
        key = re.split(r"[:\s]", line, maxsplit=1)[0]
        if key == "flags":
            line = f"flags: {int(line.split()[1], 8) & ~FOR_OPENING:o}"
        if key in FDINFO:
            # Inode numbers and devices are those of the new container's files.
            line = re.sub(r"\b(ino|sdev|fhandle-bytes|fhandle-type|f_handle):\S+", "", line)
            line = re.sub(r"\b[0-9a-f]+:[0-9a-f]+:\d+ ", "", line) if key == "lock" else line
            line = re.sub(r"\b\d+ (?=\d+ (EOF|\d+)$)", "", line) if key == "lock" else line
            found.setdefault(key, []).append(" ".join(line.split()))
    return found


def _maps(path: Path) -> list[str]:
    """Mappings, neighbours of one kind as one: how often the kernel has split them says nothing."""
    found: list[tuple[int, int, str, str]] = []
    for line in (path / "maps").read_text().splitlines():
        addresses, permissions, offset, _, _, *rest = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in addresses.split("-"))
        name = _REMAPPED.sub("REMAPPED", rest[0]) if rest else ""
        # CRIU makes shared anonymous memory from a memfd.
        name = name.replace("/memfd:/dev/zero", "/dev/zero")
        if name.startswith("/"):
            name += f" at {int(offset, 16) - start:x}"
        if found and found[-1][1:] == (start, permissions, name):
            found[-1] = (found[-1][0], end, permissions, name)
        else:
            found.append((start, end, permissions, name))
    # An interpreter that answers may need more heap; what was in it, it says itself.
    return [
        f"{start:x}-{'' if name == '[heap]' else f'{end:x}'} {permissions} {name}"
        for start, end, permissions, name in found
    ]


def namespaces(init_pid: int) -> list[str]:
    """Namespaces of processes that are not PID 1's own, time excepted."""
    found = []
    for pid in procfs.in_pid_namespace(init_pid):
        for kind in procfs.NAMESPACES:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if procfs.namespace(pid, kind) != procfs.namespace(init_pid, kind):
                    found.append(f"{kind} of {procfs.status(pid).nspids[-1]}")
    return found


def differences(before: Object, after: Object) -> list[str]:
    """Where two views differ, one line each."""
    found: list[str] = []
    _compare("", before, after, found)
    return found


def _compare(where: str, before: Any, after: Any, found: list[str]) -> None:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            _compare(f"{where}/{key}", before.get(key), after.get(key), found)
    elif isinstance(before, list) and isinstance(after, list):
        found += [f"{where}: lost {item}" for item in before if item not in after]
        found += [f"{where}: new {item}" for item in after if item not in before]
    elif before != after:
        found.append(f"{where}: {before!r} is {after!r} now")
