"""Checks of one node, made by the agent that runs on it: kernel, CRIU, privileges, clock, GPUs.

Each check answers with an outcome. The directories that the agent writes to are in `directories`.
"""

from __future__ import annotations

import collections
import contextlib
import email.utils
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Sequence

from chrek import cgroups as groups
from chrek import errors, facts, procfs
from chrek.checks import report
from chrek.criu import check as criu_check
from chrek.cuda import words

OLDEST_KERNEL = (5, 9)
"""setns(2) by a pidfd and the mount's id in statx(2) came with 5.8, close_range(2) and
CAP_CHECKPOINT_RESTORE with 5.9; time namespaces, openat2(2) and pidfd_getfd(2) are older, and
SO_PEERPIDFD (6.5) is used where it is there."""
CRIU_SECONDS = 10.0
POD_DEPTH = 6
"""So deep below a hierarchy's root are cgroups of pods looked for; kubelets of nodes that are
containers themselves put them deeper than others."""
CLOCK_WARN_SECONDS = 5.0
CLOCK_FAIL_SECONDS = 60.0
DRIVER_CHECKPOINTS = (570,)
"""The first NVIDIA driver with an API for checkpoints of GPU memory."""
DRIVER_ADVISED = (580,)
"""The first that restores onto other GPUs than those of the capture."""
LIBRARIES = "libcuda.so.1, libnvidia-ml.so.1"
_COLD = "workers that use GPUs start cold"

CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
"""By number. Source: capabilities(7)."""
NEEDED = frozenset(
    [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "NET_ADMIN",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_ADMIN",
        "SYS_RESOURCE",
    ]
)
"""Without these nothing is dumped or restored; the others matter for workers that have them."""

_POD = re.compile(r"pod[0-9a-f]{8}[-_][0-9a-f]{4}[-_]")
_PRIVILEGED = "run the agent with privileged: true and hostPID: true, as the chart does"


def server(check: Callable[[], None], where: str) -> report.Outcome:
    """A store on a server can be used.

    Args:
        check: `Storage.check`.
        where: URI of the store.
    """
    name = "store"
    try:
        check()
    except errors.ChrekError as err:
        return report.failed(name, f"{where}: {err.message}", err.hint or "check storage")
    return report.ok(name, f"{where}: objects are written, read and removed")


def kernel(release: str, *, proc: pathlib.Path = procfs.PROC) -> report.Outcome:
    """The kernel has what the agent and CRIU call.

    Args:
        release: as `uname -r` has it.
    """
    name = "kernel"
    numbers = re.match(r"(\d+)\.(\d+)", release)
    oldest = ".".join(map(str, OLDEST_KERNEL))
    if numbers is None:
        return report.warning(name, f"cannot read {release!r}", f"see that it is {oldest} or later")
    if (int(numbers[1]), int(numbers[2])) < OLDEST_KERNEL:
        return report.failed(
            name,
            f"{release} is older than {oldest}",
            "upgrade it, or keep agents off this node: agent.nodeSelector, agent.affinity",
        )
    if not (proc / "self/ns/time").exists():
        return report.warning(
            name,
            f"{release} has no time namespaces: restored workers see another uptime",
            "use a kernel with CONFIG_TIME_NS",
        )
    return report.ok(name, release)


def criu(scratch: pathlib.Path) -> report.Outcome:
    """The bundled CRIU runs, and finds what it needs of the kernel.

    Args:
        scratch: a directory for its log.
    """
    name = "criu"
    version = facts.criu_version()
    try:
        criu_check.check(scratch, seconds=CRIU_SECONDS)
    except errors.CriuError as err:
        return report.failed(
            name,
            f"CRIU {version}: {err.message}",
            "run an unmodified kernel with CONFIG_CHECKPOINT_RESTORE, outside of sandboxes",
        )
    except errors.ToolError as err:
        return report.failed(name, err.message, err.hint or "use the chrek image as it is")
    except OSError as err:
        return report.failed(name, f"no place for its log: {err}", f"let root write to {scratch}")
    return report.ok(name, f"CRIU {version} has what it needs")


def cgroups(root: pathlib.Path = groups.ROOT) -> report.Outcome:
    """The node's control groups are here, can be joined, and those of pods are among them."""
    name = "cgroups"
    hint = "mount the node's /sys/fs/cgroup into the agent for writing, as the chart does"
    try:
        version, hierarchies = _hierarchies(root)
        if not hierarchies:
            return report.failed(name, f"{root}: no cgroups there", hint)
        closed = [h for h in hierarchies if not os.access(h / "cgroup.procs", os.W_OK)]
        if closed:
            which = ", ".join(map(str, closed))
            return report.failed(name, f"version {version}: {which} cannot be written", hint)
        if not any(map(_has_pod, hierarchies)):
            return report.failed(name, f"version {version}: no pod has one below {root}", hint)
    except OSError as err:
        return report.failed(name, f"{err.filename or root}: {err.strerror}", hint)
    return report.ok(name, f"version {version}")


def _hierarchies(root: pathlib.Path) -> tuple[str, list[pathlib.Path]]:
    """Version, and the root of each hierarchy; several names may mean one of version 1."""
    if (root / "cgroup.controllers").exists():
        return "2", [root]
    found = {p.resolve() for p in root.iterdir() if (p / "cgroup.procs").exists()}
    hybrid = (root / "unified/cgroup.controllers").exists()
    return "1 and 2" if hybrid else "1", sorted(found)


def _has_pod(hierarchy: pathlib.Path) -> bool:
    """Whether the cgroup of a pod is below; there is one of the agent's own at least."""
    return any(_POD.search(path.name) for path in _below(hierarchy, POD_DEPTH))


def _below(folder: pathlib.Path, depth: int) -> Iterator[pathlib.Path]:
    """Directories up to so deep, upper ones first."""
    inner = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        inner = [pathlib.Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
    yield from inner
    for one in inner if depth > 1 else ():
        yield from _below(one, depth - 1)


def privilege(own: procfs.Status, init: procfs.Status) -> report.Outcome:
    """The agent may do what CRIU does, unfiltered, and sees all processes of the node.

    Args:
        own: status of the agent.
        init: status of PID 1, as the agent sees it.
    """
    name = "privilege"
    if own.nspids == (1,) or len(own.nspids) != 1 or init.name == "pause":
        return report.failed(name, "this is not the node's PID namespace", _PRIVILEGED)
    if own.seccomp_mode:
        # Whoever is filtered may not read the filters of others, and restores them with its own.
        text = f"seccomp is in force (mode {own.seccomp_mode})"
        return report.failed(name, text, "run the agent with seccompProfile Unconfined")
    missing = init.capabilities["CapBnd"] & ~own.capabilities["CapEff"]
    names = [text for number, text in enumerate(CAPABILITIES) if missing >> number & 1]
    text = f"without {', '.join(names)}"
    if NEEDED & set(names):
        return report.failed(name, text, _PRIVILEGED)
    if names:
        return report.warning(name, f"{text}: workers with it cannot be restored", _PRIVILEGED)
    return report.ok(name, "all capabilities of the node, no seccomp, its PID namespace")


def clock(ask: Callable[[], str], *, now: Callable[[], float] = time.time) -> report.Outcome:
    """This node's clock agrees with the API server's: ages of stages and leases depend on it.

    The server writes whole seconds, some time between question and answer: what is certain counts.

    Args:
        ask: returns the server's `Date`; raises ApiError.
        now: seconds since 1970, as this node sees it.
    """
    name = "clock"
    hint = "let a time service (chrony, systemd-timesyncd) set the clocks of all nodes"
    before = now()
    try:
        text = ask()
        there = email.utils.parsedate_to_datetime(text).timestamp()
    except errors.ApiError as err:
        # Agents restore without an API server; this says nothing about the clock.
        return report.warning(name, err.message, "see whether the API server answers this node")
    except ValueError:
        return report.warning(name, f"the API server's date {text!r} cannot be read", hint)
    after = now()
    least, most = before - there - 1, after - there
    if least <= 0 <= most:
        return report.ok(name, "agrees with the API server's within a second")
    skew = min(abs(least), abs(most))
    told = f"{skew:.0f} s {'ahead of' if least > 0 else 'behind'} the API server's"
    if skew > CLOCK_FAIL_SECONDS:
        return report.failed(name, told, hint)
    if skew > CLOCK_WARN_SECONDS:
        return report.warning(name, told, hint)
    return report.ok(name, told)


def gpu(
    describe: Callable[[], words.Node] | None,
    usage: Callable[[], Sequence[words.Usage]] | None,
    driver: pathlib.Path = pathlib.Path("/proc/driver/nvidia"),
) -> report.Outcome:
    """Workers that use the node's GPUs can be captured and restored. Others do not depend on it.

    Args:
        describe: asks the driver for its GPUs, and `usage` for who uses them; raise GpuError. None
            where its libraries were not found.
        driver: what the kernel's part of it says.
    """
    name = "gpu"
    try:
        text = (driver / "version").read_text()
    except FileNotFoundError:
        return report.ok(name, "no NVIDIA driver")
    except OSError as err:
        return report.warning(name, f"{driver}/version: {err.strerror}", "see the node's driver")
    found = re.search(r"\s(\d+(?:\.\d+)+)\s", text)
    if found is None:
        return report.warning(name, f"cannot read {text[:80]!r}", "see the node's driver")
    told, version = f"driver {found[1]}", tuple(map(int, found[1].split(".")))
    if version < DRIVER_CHECKPOINTS:
        text = f"{told} cannot save GPU memory: {_COLD}"
        return report.warning(name, text, "install driver 580 or later")
    if describe is None or usage is None:
        return report.warning(
            name,
            f"{told}, whose libraries ({LIBRARIES}) are not found: {_COLD}",
            "set agent.runtimeClassName to that of NVIDIA's container runtime, or name the "
            "directory of the node that has them in agent.gpu.driverRoots",
        )
    try:
        node, used = describe(), usage()
    except errors.GpuError as err:
        return report.warning(
            name, f"{told}: {err.message}: {_COLD}", err.hint or "see nvidia-smi on the node"
        )
    total = len([*(driver / "gpus").glob("*")])
    return _gpus(name, node, used, total, advised=version >= DRIVER_ADVISED)


def _gpus(
    name: str, node: words.Node, used: Sequence[words.Usage], total: int, *, advised: bool
) -> report.Outcome:
    """What is to be said of the GPUs of a driver that answers; `total` are the kernel's."""
    models = collections.Counter(one.model for one in node.gpus)
    listed = ", ".join(f"{count} {model}" for model, count in models.items()) or "0"
    told = [
        f"driver {node.driver} (CUDA {node.api // 1000}.{node.api % 1000 // 10}), GPUs: {listed}"
    ]
    hints = []
    if len(node.gpus) < total:
        told.append(f"the node has {total}, and the driver maps all of them: {_COLD}")
        hints.append(
            "let the agent see all GPUs: NVIDIA_VISIBLE_DEVICES is all unless agent.extraEnv or "
            "another webhook changes it"
        )
    cut = [one.uuid for one in node.gpus if one.partitioned]
    if cut:
        told.append(f"MIG is on, so that workers on them start cold: {', '.join(cut)}")
        hints.append("have workers use whole GPUs: nvidia-smi -mig 0")
    if not advised:
        told.append(
            "580 or later is advised: with older ones a worker returns to its own GPUs only"
        )
        hints.append("install driver 580 or later")
    idle = sum(not one.persistence for one in used)
    if idle:
        # It costs a restore nothing while the agent has the driver initialised.
        told.append(f"persistence mode is off{'' if idle == len(used) else f' on {idle}'}")
    detail = "; ".join(told)
    return report.warning(name, detail, "; ".join(hints)) if hints else report.ok(name, detail)


def gpus_seen(detail: str) -> str:
    """Driver and GPUs, in the words of `gpu`, where an agent can use some; empty elsewhere."""
    found = re.match(r"driver \S+ \(CUDA \S+\), GPUs: [1-9][^;]*", detail)
    return found[0] if found and _COLD not in detail else ""
