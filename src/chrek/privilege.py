"""No restored task may hold more privilege than the new container's PID 1.

CRIU restores credentials from the images, as root. Without this check whoever can write an artifact
is root on the node. Every task's credentials are therefore compared, before CRIU starts, with what
the kernel says of PID 1 right now.
Source: capabilities(7), seccomp(2), `creds.proto`, `core.proto`, `seccomp.proto` of CRIU 4.2.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Sequence

from chrek import errors, procfs
from chrek.criu import images, seccomp
from chrek.criu import messages_pb2 as pb

SECCOMP_DISABLED = 0
SECCOMP_FILTER = 2
SECCOMP_FILTER_FLAG_TSYNC = 1
_DEAD_STATES = (0x02, 0x06)
"""CRIU's TASK_DEAD and TASK_ZOMBIE: nothing of them runs after a restore."""
_UIDS = ("uid", "euid", "suid", "fsuid")
_GIDS = ("gid", "egid", "sgid", "fsgid")

_OF_THE_NODE = (
    *("apparmor", "autofs-", "binfmt-misc", "bpfmap-", "creds-", "ifaddr-", "ip6tables-"),
    *("iptables-", "mountpoints-", "netdev-", "netns-", "nftables-", "pidns-", "reg-files"),
    *("route-", "route6-", "rule-", "tmpfs-", "userns-", "utsns-"),
)
"""Images that no capture here has: with them CRIU, as root, loads AppArmor policies, mounts file
systems, sets up networks and eBPF maps, or believes credentials in a form of older versions."""
_INET_SOCKET, _PACKET_SOCKET, _TUN, _BPF_MAP = 4, 10, 15, 19
_SOCK_RAW = 3
_CAP_NET_ADMIN, _CAP_NET_RAW, _CAP_BPF = 12, 13, 39

Chain = tuple[pb.SeccompFilter, ...]
"""Filters of one thread, oldest first."""


def check(
    images_dir: pathlib.Path, init: procfs.Status, filters: Sequence[bytes]
) -> dict[int, pb.CoreEntry]:
    """Compare every task of a capture with PID 1 of the container it shall run in.

    Args:
        images_dir: the verified private copies that CRIU will read.
        init: status of PID 1.
        filters: PID 1's seccomp filters, oldest first.

    Returns:
        Mapping thread id -> its decoded core image.

    Raises:
        PrivilegeError: a task asks for more than PID 1 has.
        ArtifactError: the images cannot be decoded or are incomplete.
    """
    _check_images(images_dir)
    _check_files(images_dir, init)
    tasks = images.read(images_dir / "pstree.img", pb.PstreeEntry)
    if not tasks:
        raise errors.ArtifactError("pstree.img: no task in it")
    chains = _chains(images_dir)
    present = {path.name for path in images_dir.glob("core-*.img")}
    leaders: dict[int, int] = {}
    first: dict[int, pb.CoreEntry] = {}
    for task in tasks:
        leaders[task.pid] = task.pid
        if f"core-{task.pid}.img" in present:
            first[task.pid] = _core(images_dir, task.pid)
            # CRIU names threads of a zombie, which has none, and means nothing by it.
            if not _dead(first[task.pid]):
                leaders |= dict.fromkeys(task.threads, task.pid)
    expected = {f"core-{tid}.img" for tid in leaders}
    if expected != present:
        odd = ", ".join(sorted(expected ^ present)[:5])
        raise errors.ArtifactError(f"core images and pstree.img disagree about {odd}")
    cores = {tid: first.get(tid) or _core(images_dir, tid) for tid in sorted(leaders)}
    for tid, core in cores.items():
        _check_task(tid, core, cores[leaders[tid]], init, filters, chains)
    return cores


def relabel(images_dir: pathlib.Path, cores: Mapping[int, pb.CoreEntry], label: str) -> None:
    """Give every task the AppArmor or SELinux label of the new container, whatever it had.

    A task without a label in its image would get CRIU's own, which is the agent's.

    Args:
        cores: what `check` returned.
        label: PID 1's; empty where there is none.
    """
    for tid, core in cores.items():
        creds = core.thread_core.creds
        if not core.thread_core.HasField("creds"):
            continue
        # CRIU would write the one into attr/sockcreate, the other into the kernel's policies.
        foreign = creds.HasField("lsm_sockcreate") or creds.HasField("apparmor_data")
        if creds.lsm_profile == label and not foreign:
            continue
        creds.ClearField("lsm_sockcreate")
        creds.ClearField("apparmor_data")
        if label:
            creds.lsm_profile = label
        else:
            creds.ClearField("lsm_profile")
        name = f"core-{tid}.img"
        (images_dir / name).write_bytes(images.encode(name, [core]))


def _check_images(images_dir: pathlib.Path) -> None:
    odd = sorted(p.name for p in images_dir.iterdir() if p.name.startswith(_OF_THE_NODE))
    if odd:
        raise errors.PrivilegeError(
            f"the checkpoint has images of what belongs to the node: {', '.join(odd[:5])}",
            hint="no capture by chrek has them: make the checkpoint again",
        )


def _check_files(images_dir: pathlib.Path, init: procfs.Status) -> None:
    """Descriptors that only a capability opens: CRIU, which opens them anew, has it."""
    path = images_dir / "files.img"
    if not path.exists():
        return
    bound = init.capabilities["CapBnd"]
    for entry in images.read(path, pb.FileEntry):
        raw = entry.type == _INET_SOCKET and entry.isk.type == _SOCK_RAW
        for asked, capability, what in (
            (entry.type == _PACKET_SOCKET, _CAP_NET_RAW, "a packet socket"),
            (raw, _CAP_NET_RAW, "a raw socket"),
            (entry.type == _TUN, _CAP_NET_ADMIN, "a tun device"),
            (entry.type == _BPF_MAP, _CAP_BPF, "an eBPF map"),
        ):
            if asked and not bound & 1 << capability:
                raise errors.PrivilegeError(
                    f"the checkpoint has {what} open, and PID 1 of this container lacks "
                    f"capability {capability} in its bounding set",
                    hint="checkpoint job and worker must have the same securityContext",
                )


def _core(images_dir: pathlib.Path, tid: int) -> pb.CoreEntry:
    entries = images.read(images_dir / f"core-{tid}.img", pb.CoreEntry)
    if len(entries) != 1:
        raise errors.ArtifactError(f"core-{tid}.img: {len(entries)} entries instead of one")
    return entries[0]


def _dead(core: pb.CoreEntry) -> bool:
    return core.HasField("tc") and core.tc.task_state in _DEAD_STATES


def _check_task(
    tid: int,
    core: pb.CoreEntry,
    leader: pb.CoreEntry,
    init: procfs.Status,
    filters: Sequence[bytes],
    chains: Sequence[Chain],
) -> None:
    if not core.HasField("thread_core") or not core.thread_core.HasField("creds"):
        if _dead(core):
            return
        raise errors.ArtifactError(f"core-{tid}.img: no credentials in it")
    creds = core.thread_core.creds
    for fields, wanted, kind in ((_UIDS, init.uids, "user"), (_GIDS, init.gids, "group")):
        found = tuple(getattr(creds, name) for name in fields)
        if found != wanted:
            raise _mismatch(tid, f"{kind} ids {found}", f"{wanted}")
    if sorted(creds.groups) != sorted(init.groups):
        raise _mismatch(tid, f"groups {sorted(creds.groups)}", f"{sorted(init.groups)}")
    for name, held, bound in (
        ("inheritable", creds.cap_inh, "CapPrm"),
        ("permitted", creds.cap_prm, "CapPrm"),
        ("effective", creds.cap_eff, "CapPrm"),
        ("ambient", creds.cap_amb, "CapPrm"),
        ("bounding", creds.cap_bnd, "CapBnd"),
    ):
        mask = sum(word << (32 * index) for index, word in enumerate(held))
        allowed = init.capabilities[bound] | (init.capabilities["CapInh"] if name[0] == "i" else 0)
        if mask & ~allowed:
            raise _mismatch(tid, f"{name} capabilities {mask:#x}", f"{allowed:#x}")
    if creds.secbits:
        raise _mismatch(tid, f"securebits {creds.secbits:#x}", "0x0")
    if init.no_new_privs and not creds.no_new_privs:
        raise _mismatch(tid, "no_new_privs unset", "it set")
    _check_seccomp(tid, core.thread_core, leader.thread_core, filters, chains)


def _check_seccomp(
    tid: int,
    thread: pb.ThreadCoreEntry,
    leader: pb.ThreadCoreEntry,
    filters: Sequence[bytes],
    chains: Sequence[Chain],
) -> None:
    if not filters:
        return
    # CRIU notes the filters of a process once when all its threads have the same ones: the leader
    # installs them for all (SECCOMP_FILTER_FLAG_TSYNC), and the other threads name none.
    shared = thread.seccomp_mode == SECCOMP_DISABLED and thread is not leader
    holder = leader if shared else thread
    if holder.seccomp_mode != SECCOMP_FILTER:
        raise _mismatch(tid, "no seccomp filter", f"{len(filters)} of them")
    if holder.seccomp_filter >= len(chains):
        raise errors.ArtifactError(
            f"core-{tid}.img: seccomp filter {holder.seccomp_filter} missing"
        )
    chain = chains[holder.seccomp_filter][: len(filters)]
    if shared and not all(item.flags & SECCOMP_FILTER_FLAG_TSYNC for item in chain):
        raise _mismatch(tid, "no seccomp filter", f"{len(filters)} of them")
    # What filters decide counts, not their bytes: see `seccomp.canonical`.
    if [_canonical(item.filter) for item in chain] != [_canonical(one) for one in filters]:
        raise _mismatch(tid, "other seccomp filters", f"{len(filters)} filters of its own")


_canonical = functools.lru_cache(maxsize=64)(seccomp.canonical)


def _chains(images_dir: pathlib.Path) -> list[Chain]:
    """For every filter in seccomp.img the filters that a thread which names it gets, oldest first.

    CRIU writes a thread's newest filter first and the thread names its oldest one, so `prev` leads
    from older to newer.
    """
    path = images_dir / "seccomp.img"
    if not path.exists():
        return []
    chains: list[Chain] = []
    entries = images.read(path, pb.SeccompEntry)
    if len(entries) != 1:
        raise errors.ArtifactError(f"seccomp.img: {len(entries)} entries instead of one")
    for index, item in enumerate(entries[0].seccomp_filters):
        newer: Chain = ()
        if item.HasField("prev"):
            if item.prev >= index:
                raise errors.ArtifactError("seccomp.img: a filter refers to a later one")
            newer = chains[item.prev]
        chains.append((item, *newer))
    return chains


def _mismatch(tid: int, found: str, wanted: str) -> errors.PrivilegeError:
    return errors.PrivilegeError(
        f"task {tid} of the checkpoint has {found}, PID 1 of this container has {wanted}",
        hint="checkpoint job and worker must have the same securityContext",
    )
