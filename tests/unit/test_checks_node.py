"""Each check of a node: one that passes, each way to fail, and the line that a user reads."""

import dataclasses
import email.utils
import os
import pathlib
import subprocess

import pytest

from chrek import compatibility, errors, facts, process, procfs
from chrek.checks import node, report
from chrek.criu import check as criu_check
from chrek.cuda import words

OK, WARNING, FAILED = report.Status.OK, report.Status.WARNING, report.Status.FAILED


def test_a_server():
    found = node.server(lambda: None, "s3://bucket/p")
    assert (found.name, found.status) == ("store", OK)
    assert found.detail.startswith("s3://bucket/p: ")


@pytest.mark.parametrize(
    ("problem", "hint"),
    [
        (errors.StoreError("403 Forbidden", hint="let it write"), "let it write"),
        (errors.ConfigError("403 Forbidden"), "check storage"),
    ],
)
def test_a_server_that_refuses(problem, hint):
    def check():
        raise problem

    found = node.server(check, "s3://bucket/p")
    assert (found.status, found.detail) == (FAILED, "s3://bucket/p: 403 Forbidden")
    assert found.hint == hint


@pytest.fixture
def proc(tmp_path):
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/time").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("release", "status", "text"),
    [
        ("6.18.44-fc-v857", OK, "6.18.44-fc-v857"),
        ("5.14.0-503.el9.x86_64", OK, "5.14.0-503.el9.x86_64"),
        ("5.9.0", OK, "5.9.0"),
        ("5.8.18", FAILED, "5.8.18 is older than 5.9"),
        ("4.18.0-553.el8", FAILED, "4.18.0-553.el8 is older than 5.9"),
        ("linux", WARNING, "cannot read 'linux'"),
    ],
)
def test_kernel(proc, release, status, text):
    found = node.kernel(release, proc=proc)
    assert (found.name, found.status, found.detail) == ("kernel", status, text)


def test_a_kernel_without_time_namespaces(tmp_path):
    found = node.kernel("6.1.0", proc=tmp_path)
    assert found.status is WARNING
    assert "6.1.0 has no time namespaces" in found.detail
    assert "CONFIG_TIME_NS" in found.hint


@pytest.fixture
def criu(tmp_path, monkeypatch):
    """A check by a CRIU that fails with an error, or passes with none."""
    monkeypatch.setattr(facts, "criu_version", lambda: "4.2.1")

    def check(err=None):
        def fail(folder, *, seconds):
            assert (folder, seconds) == (tmp_path, 10)
            if err:
                raise err

        monkeypatch.setattr(criu_check, "check", fail)
        return node.criu(tmp_path)

    return check


def test_criu(criu):
    found = criu()
    assert (found.name, found.status, found.detail) == ("criu", OK, "CRIU 4.2.1 has what it needs")


@pytest.mark.parametrize(
    ("err", "detail", "hint"),
    [
        (
            errors.CriuError("criu check failed: Error (criu/cr-check.c:9): no map_files"),
            "CRIU 4.2.1: criu check failed: Error (criu/cr-check.c:9): no map_files",
            "CONFIG_CHECKPOINT_RESTORE",
        ),
        (errors.ToolError("/x/criu: not found", hint="put it"), "/x/criu: not found", "put it"),
        (errors.ToolError("/x/criu: not found"), "/x/criu: not found", "use the chrek image"),
        (OSError(28, "full", "/run/chrek"), "no place for its log: [Errno 28] full", "root write"),
    ],
)
def test_criu_that_cannot(criu, err, detail, hint):
    found = criu(err)
    assert found.status is FAILED
    assert found.detail.startswith(detail)
    assert hint in found.hint


POD = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3f1c9c0e_8d0a_4a55.slice"


def hierarchy(path, *, pod=POD, two=False):
    (path / pod).mkdir(parents=True)
    (path / "cgroup.procs").touch()
    (path / "init.scope").mkdir()
    if two:
        (path / "cgroup.controllers").touch()


@pytest.mark.parametrize(
    "pod",
    [
        POD,
        "kubepods/besteffort/pod3f1c9c0e-8d0a-4a55-9a39-6f2d1c7f0a11",
        "kubepods/pod3f1c9c0e-8d0a-4a55-9a39-6f2d1c7f0a11",
        "a/kubelet.slice/kubelet-kubepods.slice/x.slice/kubelet-kubepods-pod3f1c9c0e_8d0a_4.slice",
    ],
)
def test_cgroups_of_version_2(tmp_path, pod):
    hierarchy(tmp_path, pod=pod, two=True)
    found = node.cgroups(tmp_path)
    assert (found.name, found.status, found.detail) == ("cgroups", OK, "version 2")


def test_cgroups_of_version_1(tmp_path):
    hierarchy(tmp_path / "cpu,cpuacct")
    hierarchy(tmp_path / "memory")
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    assert node.cgroups(tmp_path).detail == "version 1"
    hierarchy(tmp_path / "unified", two=True, pod="x")
    assert (node.cgroups(tmp_path).status, node.cgroups(tmp_path).detail) == (OK, "version 1 and 2")


def test_no_cgroups(tmp_path):
    found = node.cgroups(tmp_path)
    assert (found.status, found.detail) == (FAILED, f"{tmp_path}: no cgroups there")
    assert node.cgroups(tmp_path / "x").detail == f"{tmp_path}/x: No such file or directory"


def test_cgroups_that_cannot_be_written(tmp_path, monkeypatch):
    for name in ("cpu", "memory"):
        hierarchy(tmp_path / name)
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: "memory" not in str(p) and real(p, mode))
    found = node.cgroups(tmp_path)
    assert (found.status, found.detail) == (
        *(FAILED, f"version 1: {tmp_path}/memory cannot be written"),
    )


@pytest.mark.parametrize(
    "pod", ["system.slice/containerd.service", "kubepods.slice", "1/2/3/4/5/6/pod3f1c9c0e-8d0a-4"]
)
def test_cgroups_without_pods(tmp_path, pod):
    """As in a cgroup namespace of the agent's own, where nothing of a pod can be joined."""
    hierarchy(tmp_path, pod=pod, two=True)
    found = node.cgroups(tmp_path)
    assert (found.status, found.detail) == (
        *(FAILED, f"version 2: no pod has one below {tmp_path}"),
    )
    assert "/sys/fs/cgroup" in found.hint


ALL = (1 << 41) - 1


def status(**changed):
    fields = {"pid": 4242, "name": "chrek", "capabilities": {"CapEff": ALL, "CapBnd": ALL}}
    fields |= {"state": "S", "ppid": 1, "nspids": (4242,), "uids": (0,), "gids": (0,)}
    fields |= {"groups": (), "no_new_privs": False, "seccomp_mode": 0, "seccomp_filters": 0}
    del fields["pid"]
    return procfs.Status(**{**fields, **changed})


def without(*numbers):
    mask = ALL
    for number in numbers:
        mask &= ~(1 << number)
    return {"CapEff": mask, "CapBnd": mask}


INIT = status(name="systemd", nspids=(1,))


def test_privilege():
    found = node.privilege(status(), INIT)
    assert (found.name, found.status) == ("privilege", OK)


def test_what_the_node_itself_has_not_is_not_missed():
    init = dataclasses.replace(INIT, capabilities=without(25))
    assert node.privilege(status(capabilities=without(25)), init).status is OK


@pytest.mark.parametrize(
    ("changed", "expected", "text"),
    [
        ({"capabilities": without(21)}, FAILED, "without SYS_ADMIN"),
        ({"capabilities": without(19, 24)}, FAILED, "without SYS_PTRACE, SYS_RESOURCE"),
        ({"capabilities": without(25)}, WARNING, "without SYS_TIME: workers with it cannot"),
        ({"capabilities": without(40)}, WARNING, "without CHECKPOINT_RESTORE: "),
        ({"seccomp_mode": 2}, FAILED, "seccomp is in force (mode 2)"),
        ({"nspids": (1,)}, FAILED, "this is not the node's PID namespace"),
        ({"nspids": (4242, 7)}, FAILED, "this is not the node's PID namespace"),
    ],
)
def test_privileges_that_do_not_suffice(changed, expected, text):
    found = node.privilege(status(**changed), INIT)
    assert found.status is expected
    assert found.detail.startswith(text)


def test_the_pid_namespace_of_a_pod():
    found = node.privilege(status(), dataclasses.replace(INIT, name="pause"))
    assert (found.status, found.detail) == (FAILED, "this is not the node's PID namespace")
    assert "hostPID: true" in found.hint


def test_capabilities_have_their_numbers():
    assert [node.CAPABILITIES.index(name) for name in ("CHOWN", "SYS_ADMIN", "SYS_TIME")] == [
        *(0, 21, 25),
    ]
    assert node.CAPABILITIES.index("CHECKPOINT_RESTORE") == len(node.CAPABILITIES) - 1 == 40
    assert set(node.CAPABILITIES) > node.NEEDED


THERE = 1_800_000_000
DATE = email.utils.formatdate(THERE, usegmt=True)


@pytest.mark.parametrize(
    ("before", "after", "expected", "text"),
    [
        (0.0, 0.1, OK, "agrees"),
        (0.9, 1.0, OK, "agrees"),
        # The whole second that the header leaves open, and the time that the answer took.
        (1.5, 1.6, OK, "0 s ahead"),
        (-0.2, 0.1, OK, "agrees"),
        (5.9, 6.0, OK, "5 s ahead"),
        (6.2, 6.3, WARNING, "5 s ahead of the API server's"),
        (30.0, 30.1, WARNING, "29 s ahead of the API server's"),
        (-5.2, -5.1, WARNING, "5 s behind the API server's"),
        (-4.9, -4.8, OK, "5 s behind"),
        (62.0, 62.1, FAILED, "61 s ahead of the API server's"),
        (-7200.0, -7199.9, FAILED, "7200 s behind the API server's"),
        # Slow answers leave much open, and accuse nobody.
        (-20.0, 20.0, OK, "agrees"),
        (10.0, 90.0, WARNING, "9 s ahead"),
    ],
)
def test_clock(before, after, expected, text):
    times = iter([THERE + before, THERE + after])
    found = node.clock(lambda: DATE, now=lambda: next(times))
    assert (found.name, found.status) == ("clock", expected)
    assert found.detail.startswith(text)
    assert bool(found.hint) == (expected is not OK)


def test_a_clock_that_nobody_can_compare():
    """An agent does its work without an API server, too."""

    def ask():
        raise errors.ApiError("GET /version: the API server did not answer: refused")

    found = node.clock(ask)
    assert found.status is WARNING
    assert "did not answer" in found.detail
    assert node.clock(lambda: "").detail == "the API server's date '' cannot be read"


NVRM = "NVRM version: NVIDIA UNIX {}Kernel Module{} {}  Thu Jul 17 01:16:50 UTC 2025\nGCC ...\n"


def gpus(count=2, *, model="NVIDIA H100 80GB HBM3", first=0, partitioned=False):
    return [
        compatibility.Gpu(
            uuid=f"GPU-{number}",
            minor=number,
            model=model,
            memoryBytes=80 << 30,
            computeCapability="9.0",
            partitioned=partitioned,
        )
        for number in range(first, first + count)
    ]


def usage(found, *, persistent=True):
    return [
        words.Usage(uuid=one.uuid, freeBytes=1, persistence=persistent, processes={})
        for one in found
    ]


@pytest.fixture
def driver(tmp_path):
    """The outcome for a kernel driver of a version with so many GPUs, and what a helper says."""

    def made(version, *, text=NVRM, flavor=("x86_64 ", " "), total=2, seen=None, used=None):
        (tmp_path / "version").write_text(text.format(*flavor, version))
        for number in range(total):
            (tmp_path / f"gpus/0000:0{number}:00.0").mkdir(parents=True, exist_ok=True)
        seen = gpus(total) if seen is None else seen
        described = words.Node(driver=version, api=13000, gpus=seen)
        used = usage(seen) if used is None else used
        return node.gpu(lambda: described, lambda: used, tmp_path)

    return made


H100 = "driver 580.65.06 (CUDA 13.0), GPUs: 2 NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("version", ["580.65.06", "595.10"])
@pytest.mark.parametrize("flavor", [("x86_64 ", " "), ("Open ", " for aarch64")])
def test_gpus_that_workers_can_be_restored_on(driver, version, flavor):
    found = driver(version, flavor=flavor)
    assert (found.name, found.status) == ("gpu", OK)
    assert found.detail == H100.replace("580.65.06", version)


@pytest.mark.parametrize("version", ["570.86.15", "575.57.08"])
def test_a_driver_that_restores_onto_the_same_gpus_alone(driver, version):
    found = driver(version)
    assert found.status is WARNING
    assert "580 or later is advised: with older ones a worker returns to its own" in found.detail
    assert found.hint == "install driver 580 or later"


def test_a_driver_without_checkpoints_is_not_asked(tmp_path):
    (tmp_path / "version").write_text(NVRM.format("", " ", "550.54.15"))
    found = node.gpu(None, None, tmp_path)
    assert found.status is WARNING
    assert found.detail == (
        "driver 550.54.15 cannot save GPU memory: workers that use GPUs start cold"
    )
    assert found.hint == "install driver 580 or later"


def test_a_driver_without_libraries(tmp_path):
    (tmp_path / "version").write_text(NVRM.format("", " ", "580.65.06"))
    found = node.gpu(None, None, tmp_path)
    assert found.status is WARNING, "other workers do not need them"
    assert "(libcuda.so.1, libnvidia-ml.so.1) are not found: workers that use" in found.detail
    assert "agent.runtimeClassName" in found.hint
    assert "agent.gpu.driverRoots" in found.hint


@pytest.mark.parametrize("asked", ["describe", "usage"])
def test_a_driver_that_does_not_answer(tmp_path, asked):
    (tmp_path / "version").write_text(NVRM.format("", " ", "580.65.06"))

    def fail():
        raise errors.GpuError("NVML: lost", hint="reset it")

    questions = {"describe": lambda: words.Node(driver="x", api=1, gpus=[]), "usage": list}
    found = node.gpu(*(questions | {asked: fail}).values(), tmp_path)
    assert (found.status, found.hint) == (WARNING, "reset it")
    assert found.detail == "driver 580.65.06: NVML: lost: workers that use GPUs start cold"


def test_gpus_that_the_agent_does_not_see(driver):
    found = driver("580.65.06", total=4, seen=gpus(2))
    assert found.status is WARNING
    assert found.detail.startswith(f"{H100}; the node has 4, and the driver maps all of them")
    assert "NVIDIA_VISIBLE_DEVICES" in found.hint


def test_parts_of_gpus_are_named(driver):
    found = driver("580.65.06", seen=[*gpus(1), *gpus(1, first=1, partitioned=True)])
    assert found.status is WARNING
    assert found.detail == f"{H100}; MIG is on, so that workers on them start cold: GPU-1"
    assert "nvidia-smi -mig 0" in found.hint


@pytest.mark.parametrize(
    ("on", "off", "text"),
    [(2, 0, ""), (0, 2, "; persistence mode is off"), (1, 1, "; persistence mode is off on 1")],
)
def test_persistence_mode_is_told_and_no_more(driver, on, off, text):
    used = usage(gpus(on)) + usage(gpus(off), persistent=False)
    found = driver("580.65.06", used=used)
    assert (found.status, found.detail, found.hint) == (OK, f"{H100}{text}", "")


def test_several_things_at_once_have_a_hint_each(driver):
    found = driver("575.1", total=4, seen=gpus(3, partitioned=True))
    assert found.detail.count(";") == 3
    assert found.hint.count(";") == 2


def test_different_gpus(driver):
    found = driver("580.65.06", total=3, seen=[*gpus(2), *gpus(1, model="NVIDIA L4", first=2)])
    assert found.detail == f"{H100}, 1 NVIDIA L4"


def test_a_node_without_gpus(driver, tmp_path):
    found = node.gpu(None, None, tmp_path / "none")
    assert (found.status, found.detail) == (OK, "no NVIDIA driver")
    found = driver("580.65.06", total=0)
    assert (found.status, found.detail) == (OK, "driver 580.65.06 (CUDA 13.0), GPUs: 0")
    assert node.gpus_seen(found.detail) == ""


def test_a_driver_that_nobody_knows(driver, tmp_path):
    assert driver("x", text="{}{} {}").status is WARNING
    (tmp_path / "version").unlink()
    (tmp_path / "version").mkdir()
    assert node.gpu(None, None, tmp_path).status is WARNING


def test_gpus_that_can_be_used_are_read_from_the_words(driver, tmp_path):
    assert node.gpus_seen(driver("580.65.06").detail) == H100
    idle = driver("580.65.06", used=usage(gpus(2), persistent=False))
    assert idle.detail != H100
    assert node.gpus_seen(idle.detail) == H100, "remarks do not matter"
    assert node.gpus_seen(driver("570.1").detail) == H100.replace("580.65.06", "570.1")
    assert node.gpus_seen(driver("580.65.06", total=4, seen=gpus(2)).detail) == ""
    assert node.gpus_seen(driver("550.54.15").detail) == ""
    assert node.gpus_seen(node.gpu(None, None, tmp_path).detail) == ""
    assert node.gpus_seen("driver 580.1, GPUs: 8; GPU memory is not captured yet") == ""
    assert node.gpus_seen("no NVIDIA driver") == ""


def test_a_program_that_hangs_is_ended(tmp_path, monkeypatch):
    """In the place of chrek-enter: CRIU's check has an end, whatever CRIU does."""
    for name in ("criu/lib", "criu/plugins"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("criu/criu", "criu/ld.so", "criu-shim.so"):
        (tmp_path / name).touch()
    (tmp_path / "chrek-enter").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "chrek-enter").chmod(0o755)
    monkeypatch.setattr(process, "LIBEXEC", tmp_path)
    monkeypatch.setattr(node, "CRIU_SECONDS", 0.2)
    found = node.criu(tmp_path)
    assert found.status is FAILED
    assert "criu check did not end in time" in found.detail
    assert not [*tmp_path.glob("tmp*")]
    ran = subprocess.run(["pgrep", "-f", "sleep 60"], capture_output=True, text=True, check=False)
    assert str(os.getpid()) not in [
        pathlib.Path(f"/proc/{pid}/stat").read_text().split()[3] for pid in ran.stdout.split()
    ]
