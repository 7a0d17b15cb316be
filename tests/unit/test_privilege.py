"""Not one field of a task's credentials may hold more than PID 1 of the new container has."""

import dataclasses
import re
import struct

import pytest

from chrek import errors, privilege, procfs
from chrek.criu import images
from chrek.criu import messages_pb2 as pb

UID, GID, GROUPS = 65532, 65533, (7, 9)
BOUND = 0xA80425FB


def returning(value):
    """A filter that answers every system call with the same value."""
    return struct.pack("<HBBI", 0x06, 0, 0, value)


FILTERS = (returning(0x7FFF0000), returning(0x00050026))
INIT = procfs.Status(
    name="chrek-init",
    state="S",
    ppid=0,
    nspids=(500, 1),
    uids=(UID,) * 4,
    gids=(GID,) * 4,
    groups=GROUPS,
    capabilities={"CapInh": 0x2, "CapPrm": 0x9, "CapEff": 0x9, "CapBnd": BOUND, "CapAmb": 0},
    no_new_privs=True,
    seccomp_mode=2,
    seccomp_filters=2,
)


def creds(**changed):
    made = pb.CredsEntry(
        **dict.fromkeys(("uid", "euid", "suid", "fsuid"), UID),
        **dict.fromkeys(("gid", "egid", "sgid", "fsgid"), GID),
        cap_inh=[0, 0],
        cap_prm=[0x1, 0],
        cap_eff=[0x1, 0],
        cap_bnd=[BOUND, 0],
        secbits=0,
        groups=GROUPS,
        no_new_privs=1,
        cap_amb=[0, 0],
    )
    for name, value in changed.items():
        if isinstance(value, list):
            getattr(made, name)[:] = value
        else:
            setattr(made, name, value)
    return made


def core(credentials=None, *, mode=2, filters=2, state=1):
    thread = pb.ThreadCoreEntry(creds=credentials or creds(), seccomp_mode=mode)
    thread.seccomp_filter = filters
    return pb.CoreEntry(mtype=1, tc=pb.TaskCoreEntry(task_state=state), thread_core=thread)


def seccomp(*filters):
    """Entries (body, index of the newer one or None), as CRIU writes them: newest first."""
    made = pb.SeccompEntry()
    for body, prev in filters:
        item = made.seccomp_filters.add(filter=body)
        if prev is not None:
            item.prev = prev
    return made


OURS = seccomp((returning(0x00050001), None), (FILTERS[1], 0), (FILTERS[0], 1))
"""A task of the checkpoint job: the runtime's two filters, then that of chrek-init."""


@pytest.fixture
def write(tmp_path):
    def write(cores, tasks=None, filters=OURS):
        tasks = tasks or [{"pid": pid, "threads": [pid]} for pid in cores]
        entries = [pb.PstreeEntry(ppid=0, pgid=1, sid=1, **task) for task in tasks]
        files = {"pstree.img": entries, **{f"core-{pid}.img": [c] for pid, c in cores.items()}}
        if filters is not None:
            files["seccomp.img"] = [filters]
        for name, messages in files.items():
            (tmp_path / name).write_bytes(images.encode(name, messages))
        return tmp_path

    return write


def refuses(directory, message, init=INIT, filters=FILTERS):
    with pytest.raises(errors.PrivilegeError) as caught:
        privilege.check(directory, init, filters)
    assert message in str(caught.value)
    assert "same securityContext" in str(caught.value)


def test_the_same_credentials_pass(write):
    privilege.check(write({10001: core(), 10002: core()}), INIT, FILTERS)


def test_less_than_pid_1_has_passes(write):
    less = creds(cap_prm=[0], cap_eff=[], cap_bnd=[0, 0], cap_inh=[0x2])
    privilege.check(write({10001: core(less)}), INIT, FILTERS)


MORE = [
    *((creds(**{name: 0}), "user ids") for name in ("uid", "euid", "suid", "fsuid")),
    *((creds(**{name: 0}), "group ids") for name in ("gid", "egid", "sgid", "fsgid")),
    (creds(groups=[7, 9, 0]), "groups [0, 7, 9]"),
    (creds(groups=[7]), "groups [7]"),
    (creds(groups=[]), "groups []"),
    (creds(cap_inh=[0x4, 0]), "inheritable capabilities 0x4"),
    (creds(cap_prm=[0x3, 0]), "permitted capabilities 0x3"),
    (creds(cap_prm=[0x1, 0x1]), "permitted capabilities 0x100000001"),
    (creds(cap_eff=[0x9, 0x80]), "effective capabilities"),
    (creds(cap_eff=[BOUND, 0]), "effective capabilities"),
    (creds(cap_amb=[0x2, 0]), "ambient capabilities 0x2"),
    (creds(cap_bnd=[0xFFFFFFFF, 0x1FF]), "bounding capabilities 0x1ffffffffff"),
    (creds(cap_bnd=[BOUND | 1 << 2, 0]), "bounding capabilities"),
    (creds(cap_bnd=[BOUND, 0, 1]), "bounding capabilities"),
    (creds(secbits=1), "securebits 0x1"),
    (creds(secbits=0x20), "securebits 0x20"),
    (creds(no_new_privs=0), "no_new_privs unset"),
]


@pytest.mark.parametrize(("held", "message"), MORE, ids=range(len(MORE)))
def test_more_than_pid_1_has_is_refused(write, held, message):
    refuses(
        write({10001: core(), 10003: core(held)}), f"task 10003 of the checkpoint has {message}"
    )


def test_every_thread_is_looked_at(write):
    tasks = [{"pid": 10001, "threads": [10001, 10007]}]
    directory = write({10001: core(), 10007: core(creds(euid=0))}, tasks)
    refuses(directory, "task 10007")


def test_no_new_privs_may_be_added(write):
    init = dataclasses.replace(INIT, no_new_privs=False)
    privilege.check(write({10001: core(creds(no_new_privs=1))}), init, FILTERS)
    privilege.check(write({10001: core(creds(no_new_privs=0))}), init, FILTERS)


SECCOMP = {
    "none": (core(mode=0), OURS, "has no seccomp filter"),
    "strict mode": (core(mode=1), OURS, "has no seccomp filter"),
    "only its own": (core(filters=0), OURS, "other seccomp filters"),
    "the first only": (core(filters=0), seccomp((FILTERS[0], None)), "other seccomp filters"),
    "the second only": (core(filters=1), OURS, "other seccomp filters"),
    "another one": (
        core(filters=1),
        seccomp((returning(1), None), (FILTERS[0], 0)),
        "other seccomp filters",
    ),
    "the other way round": (
        core(filters=1),
        seccomp((FILTERS[0], None), (FILTERS[1], 0)),
        "other seccomp filters",
    ),
    "another one before": (
        core(filters=2),
        seccomp((FILTERS[1], None), (FILTERS[0], 0), (returning(2), 1)),
        "other seccomp filters",
    ),
}


@pytest.mark.parametrize(("task", "filters", "message"), SECCOMP.values(), ids=list(SECCOMP))
def test_seccomp_filters_that_lack_or_differ(write, task, filters, message):
    refuses(write({10001: task}, filters=filters), message)


def tsync(flags):
    made = pb.SeccompEntry.FromString(OURS.SerializeToString())
    for item, one in zip(made.seccomp_filters, flags, strict=True):
        item.flags = one
    return made


def test_threads_whose_leader_installs_the_filters_for_them(write):
    tasks = [{"pid": 10001, "threads": [10001, 10002]}]
    cores = {10001: core(), 10002: core(mode=0)}
    privilege.check(write(cores, tasks, tsync([1, 1, 1])), INIT, FILTERS)
    privilege.check(write(cores, tasks, tsync([0, 1, 1])), INIT, FILTERS)
    for flags in ([1, 1, 0], [1, 0, 1], [0, 0, 0]):
        refuses(write(cores, tasks, tsync(flags)), "task 10002 of the checkpoint has no seccomp")
    cores = {10001: core(mode=0), 10002: core(mode=0)}
    refuses(write(cores, tasks, tsync([1, 1, 1])), "task 10001 of the checkpoint has no seccomp")
    cores = {10001: core(), 10002: core(mode=0)}
    both = [{"pid": pid, "threads": [pid]} for pid in cores]
    refuses(write(cores, both, tsync([1, 1, 1])), "task 10002 of the checkpoint has no seccomp")


def test_a_container_without_filters_takes_any(write):
    for task in (core(), core(mode=0)):
        privilege.check(write({10001: task}), INIT, ())
    privilege.check(write({10001: core(mode=0)}, filters=None), INIT, ())


BROKEN = {
    "no task": ({}, [], OURS, "no task in it"),
    "a task without core": (
        {10001: core()},
        [{"pid": 10001, "threads": [10001, 3]}],
        OURS,
        "core-3.img",
    ),
    "a core without task": (
        {10001: core(), 4: core()},
        [{"pid": 10001, "threads": [10001]}],
        OURS,
        "disagree about core-4.img",
    ),
    "no credentials": (
        {10001: pb.CoreEntry(mtype=1, tc=pb.TaskCoreEntry(task_state=1))},
        None,
        OURS,
        "core-10001.img: no credentials",
    ),
    "nothing at all": ({10001: pb.CoreEntry(mtype=1)}, None, OURS, "no credentials"),
    "a filter that is not there": ({10001: core(filters=3)}, None, OURS, "filter 3 missing"),
    "no filters at all": ({10001: core()}, None, None, "filter 2 missing"),
    "a loop of filters": (
        {10001: core(filters=0)},
        None,
        seccomp((FILTERS[0], 1), (FILTERS[1], 0)),
        "refers to a later one",
    ),
}


@pytest.mark.parametrize(
    ("cores", "tasks", "filters", "message"), BROKEN.values(), ids=list(BROKEN)
)
def test_images_that_cannot_be(write, tmp_path, cores, tasks, filters, message):
    directory = write(cores, tasks, filters)
    with pytest.raises(errors.ArtifactError) as caught:
        privilege.check(directory, INIT, FILTERS)
    assert message in str(caught.value)


def test_dead_tasks_hold_nothing(write):
    dead = pb.CoreEntry(mtype=1, tc=pb.TaskCoreEntry(task_state=6))
    privilege.check(write({10001: core(), 10002: dead}), INIT, FILTERS)


@pytest.mark.parametrize("name", ["core-x.img", "core-.img", "core-1-2.img", "core-010001.img"])
def test_files_with_odd_names(write, name):
    directory = write({10001: core()})
    (directory / name).write_bytes(b"")
    with pytest.raises(errors.ArtifactError, match=name):
        privilege.check(directory, INIT, FILTERS)


def test_two_entries_where_criu_reads_one(write):
    directory = write({10001: core()})
    data = images.encode("core-10001.img", [core(), core(creds(uid=0))])
    (directory / "core-10001.img").write_bytes(data)
    with pytest.raises(errors.ArtifactError, match=r"core-10001\.img: 2 entries"):
        privilege.check(directory, INIT, FILTERS)
    directory = write({10001: core()})
    (directory / "seccomp.img").write_bytes(images.encode("seccomp.img", [seccomp(), OURS]))
    with pytest.raises(errors.ArtifactError, match=r"seccomp\.img: 2 entries"):
        privilege.check(directory, INIT, FILTERS)


@pytest.mark.parametrize("before", ["", "cri-containerd.apparmor.d", "hostile"])
@pytest.mark.parametrize("label", ["", "cri-containerd.apparmor.d", "localhost/strict"])
def test_every_task_gets_the_label_of_the_new_container(write, before, label):
    held = creds(lsm_profile=before) if before else creds()
    directory = write({1: core(held), 2: core()}, [{"pid": 1, "threads": [1, 2]}])
    cores = privilege.check(directory, INIT, FILTERS)
    privilege.relabel(directory, cores, label)
    for tid in cores:
        (entry,) = images.read(directory / f"core-{tid}.img", pb.CoreEntry)
        assert entry.thread_core.creds.lsm_profile == label
        assert entry.thread_core.creds.HasField("lsm_profile") is bool(label)


NODES = [
    *("apparmor.img", "binfmt-misc.img", "binfmt-misc-9.img", "bpfmap-data.img", "autofs-3.img"),
    *("mountpoints-12.img", "tmpfs-7.tar.gz.img", "tmpfs-dev-7.tar.gz.img", "creds-10001.img"),
    *("netns-9.img", "netdev-9.img", "ifaddr-9.img", "route-9.img", "route6-9.img", "rule-9.img"),
    *("iptables-9.img", "ip6tables-9.img", "nftables-9.img", "netns-ct-9.img", "reg-files.img"),
    *("userns-9.img", "utsns-9.img", "pidns-9.img"),
]


@pytest.mark.parametrize("name", NODES)
def test_images_that_change_the_node_are_refused(write, name):
    directory = write({10001: core()})
    (directory / name).write_bytes(b"")
    with pytest.raises(errors.PrivilegeError, match=re.escape(name)):
        privilege.check(directory, INIT, FILTERS)


def test_images_of_ordinary_captures_are_not(write):
    directory = write({10001: core()})
    for name in (
        *("cgroup.img", "fdinfo-2.img", "fs-10001.img", "ids-10001.img", "inventory.img"),
        *("ipcns-shm-9.img", "mm-10001.img", "pagemap-10001.img", "pages-1.img", "timens-0.img"),
        *("tty-info.img", "remap-fpath.img", "ghost-file-1.img", "tcp-stream-a.img", "memfd.img"),
    ):
        (directory / name).write_bytes(b"")
    privilege.check(directory, INIT, FILTERS)


RAW = pb.InetSkEntry(id=1, ino=1, family=2, type=3, proto=1, state=7, src_port=0, dst_port=0)
OPENED = {
    "a packet socket": (pb.FileEntry(type=10, id=1), 13),
    "a raw socket": (pb.FileEntry(type=4, id=1, isk=RAW), 13),
    "a tun device": (pb.FileEntry(type=15, id=1), 12),
    "an eBPF map": (pb.FileEntry(type=19, id=1), 39),
}


@pytest.mark.parametrize(("what", "entry", "number"), [(k, *v) for k, v in OPENED.items()])
def test_descriptors_that_only_a_capability_opens(write, what, entry, number):
    directory = write({10001: core()})
    stream = pb.InetSkEntry()
    stream.CopyFrom(RAW)
    stream.type = 1
    ordinary = [pb.FileEntry(type=1, id=2), pb.FileEntry(type=4, id=3, isk=stream)]
    (directory / "files.img").write_bytes(images.encode("files.img", [*ordinary, entry]))
    for held in (0, 0x1FFFFFFFFFF & ~(1 << number)):
        bounds = {**INIT.capabilities, "CapBnd": held | BOUND & ~(1 << number)}
        init = dataclasses.replace(INIT, capabilities=bounds)
        with pytest.raises(errors.PrivilegeError, match=f"{what} open.* capability {number} "):
            privilege.check(directory, init, FILTERS)
    allowed = {**INIT.capabilities, "CapBnd": BOUND | 1 << number}
    privilege.check(directory, dataclasses.replace(INIT, capabilities=allowed), FILTERS)


@pytest.mark.parametrize("label", ["", "cri-containerd.apparmor.d"])
def test_labels_of_sockets_and_policies_are_dropped(write, label):
    held = creds(lsm_sockcreate="system_u:system_r:init_t:s0", apparmor_data=b"policy")
    held.lsm_profile = label
    directory = write({10001: core(held)})
    privilege.relabel(directory, privilege.check(directory, INIT, FILTERS), label)
    (entry,) = images.read(directory / "core-10001.img", pb.CoreEntry)
    assert not entry.thread_core.creds.HasField("lsm_sockcreate")
    assert not entry.thread_core.creds.HasField("apparmor_data")
    assert entry.thread_core.creds.lsm_profile == label
