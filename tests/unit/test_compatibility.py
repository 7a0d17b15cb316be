"""Every fact has a rule: broken alone it is seen with its Reason, and named with both values."""

import msgspec
import pytest

from chrek import compatibility, errors, names
from chrek.compatibility import FACTS, Facts, File, Gpu, GpuFacts, Mount, User

UUIDS = [f"GPU-{number:08x}-0000-0000-0000-000000000000" for number in range(8)]
GPU = Gpu(
    uuid=UUIDS[0], minor=0, model="NVIDIA H100", memoryBytes=80 << 30, computeCapability="9.0"
)
SOURCE = Facts(
    architecture="x86_64",
    image="llm:1",
    imageDigest="sha256:aa",
    command=["serve", "--fast"],
    environment={"A": "1", "B": "2"},
    salt="s",
    secrets={"TOKEN": "d1"},
    configMaps={"/etc/app/a.yaml": "d2"},
    mounts=[
        Mount(path="/", kind="disk", readOnly=False),
        Mount(path="/dev/shm", kind="memory", readOnly=False),
        Mount(path="/models", kind="disk", readOnly=True),
    ],
    sharedMemoryBytes=64 << 20,
    user=User(uids=[7] * 4, gids=[8] * 4, groups=[9, 10]),
    gpus=["NVIDIA H100"],
    gpuDriver="580.65.06",
    gpuDevices=[GPU],
    gpuNode=UUIDS,
    cpuFeatures=["avx", "avx2"],
    signalFrameBytes=3376,
    pageBytes=4096,
    kernel="6.18.2-1-cloud",
    criu="4.2.1",
    timeNamespaces=True,
    memoryUsedBytes=3 << 30,
    memoryLimitBytes=4 << 30,
    tasks=100,
    pidsLimit=1000,
    imageFiles=[File(path="/usr/bin/python3", size=9, mtimeSeconds=1)],
    volumeFiles=[
        File(path="/models/a", size=5, mtimeSeconds=2),
        File(path="/host/b", size=6, digest="d3"),
    ],
)


def files(**changed):
    return [msgspec.structs.replace(file, **changed) for file in SOURCE.volumeFiles]


def mount(path, **changed):
    return [msgspec.structs.replace(m, **changed) if m.path == path else m for m in SOURCE.mounts]


BROKEN = {
    "architecture": (
        {"architecture": "aarch64"},
        "ArchitectureDiffers",
        "captured x86_64, here aarch64",
    ),
    "page size": ({"pageBytes": 65536}, "PageSizeDiffers", "captured 4096, here 65536"),
    "image": ({"image": "llm:2"}, "ImageDiffers", "captured llm:1, here llm:2"),
    "a tag that was moved": (
        {"imageDigest": "sha256:bb"},
        "ImageDiffers",
        "captured sha256:aa, here sha256:bb",
    ),
    "command": ({"command": ["serve"]}, "CommandDiffers", "captured serve --fast, here serve"),
    "no command": ({"command": []}, "CommandDiffers", "captured serve --fast, here nothing"),
    "a variable": ({"environment": {"A": "1", "B": "3"}}, "EnvironmentDiffers", "ones: B ("),
    "a variable less": (
        {"environment": {"A": "1"}},
        "EnvironmentDiffers",
        "ones: B (missing here)",
    ),
    "a variable more": (
        {"environment": {"A": "1", "B": "2", "C": "3"}},
        "EnvironmentDiffers",
        "ones: C (not captured)",
    ),
    "a Secret": ({"secrets": {"TOKEN": "d9"}}, "SecretDiffers", "ones: TOKEN ("),
    "a Secret less": ({"secrets": {}}, "SecretDiffers", "TOKEN (missing here)"),
    "a ConfigMap": ({"configMaps": {"/etc/app/a.yaml": "d9"}}, "ConfigMapDiffers", "/etc/app/a"),
    "uid": (
        {"user": User(uids=[0] * 4, gids=[8] * 4, groups=[9, 10])},
        "UserDiffers",
        "uids captured 7 7 7 7, here 0 0 0 0",
    ),
    "gid": (
        {"user": User(uids=[7] * 4, gids=[8, 8, 8, 0], groups=[9, 10])},
        "UserDiffers",
        "gids captured 8 8 8 8, here 8 8 8 0",
    ),
    "groups": (
        {"user": User(uids=[7] * 4, gids=[8] * 4, groups=[9])},
        "UserDiffers",
        "groups captured 9 10, here 9",
    ),
    "GPU": ({"gpus": ["NVIDIA A100"]}, "GpuDiffers", "NVIDIA H100, here NVIDIA A100"),
    "no GPU": ({"gpus": []}, "GpuCountDiffers", "captured 1, here 0"),
    "two GPUs": ({"gpus": ["NVIDIA H100"] * 2}, "GpuCountDiffers", "captured 1, here 2"),
    "GPU driver": (
        {"gpuDriver": "580.82.07"},
        "GpuDriverDiffers",
        "captured 580.65.06, here 580.82.07",
    ),
    "GPU chip": (
        {"gpuDevices": [msgspec.structs.replace(GPU, computeCapability="10.0")]},
        "GpuDiffers",
        "captured 9.0, here 10.0",
    ),
    "GPU memory": (
        {"gpuDevices": [msgspec.structs.replace(GPU, memoryBytes=64 << 30)]},
        "GpuMemoryTooSmall",
        f"captured {80 << 30}, here {64 << 30}",
    ),
    "part of a GPU": (
        {"gpuDevices": [msgspec.structs.replace(GPU, partitioned=True)]},
        "GpuPartitioned",
        f"MIG is on: {UUIDS[0]}",
    ),
    "GPUs of the node": ({"gpuNode": UUIDS[:4]}, "GpuCountDiffers", "captured 8, here 4"),
    "CPU": ({"cpuFeatures": ["avx", "sse"]}, "CpuFeaturesMissing", "captured with avx2, which"),
    "xsave": ({"signalFrameBytes": 2000}, "XsaveAreaTooSmall", "captured 3376, here 2000"),
    "kernel": ({"kernel": "6.17.9"}, "KernelTooOld", "captured 6.18.2-1-cloud, here 6.17.9"),
    "an older kernel": ({"kernel": "5.19.0"}, "KernelTooOld", "here 5.19.0"),
    "CRIU": ({"criu": "4.1"}, "CriuTooOld", "captured 4.2.1, here 4.1"),
    "time namespaces": ({"timeNamespaces": False}, "TimeNamespacesMissing", "here False"),
    "memory": (
        {"memoryLimitBytes": 2 << 30},
        "MemoryLimitTooLow",
        f"captured {3 << 30}, here {2 << 30}",
    ),
    "pids": ({"pidsLimit": 99}, "PidsLimitTooLow", "captured 100, here 99"),
    "a mount less": (
        {"mounts": SOURCE.mounts[:2]},
        "MountsDiffer",
        "nothing is mounted at /models, captured disk read-only",
    ),
    "a writable mount": (
        {"mounts": mount("/models", readOnly=False)},
        "MountsDiffer",
        "/models: captured disk read-only, here disk writable",
    ),
    "a mount of another kind": (
        {"mounts": mount("/dev/shm", kind="disk")},
        "MountsDiffer",
        "/dev/shm: captured memory writable, here disk writable",
    ),
    "/dev/shm": (
        {"sharedMemoryBytes": 1 << 20},
        "SharedMemoryTooSmall",
        f"captured {64 << 20}, here {1 << 20}",
    ),
    "a file of the image": (
        {"imageFiles": [File(path="/usr/bin/python3", size=9, mtimeSeconds=7)]},
        "ImageDiffers",
        "/usr/bin/python3: captured as modified at 1, here 7",
    ),
    "a file's size": ({"volumeFiles": files(size=7)}, "FileChanged", "5 bytes, here 7"),
    "a file's time": ({"volumeFiles": files(mtimeSeconds=3)}, "FileChanged", "at 2, here 3"),
    "a file's content": (
        {"volumeFiles": [SOURCE.volumeFiles[0], File(path="/host/b", size=6, digest="d4")]},
        "FileChanged",
        "/host/b: other content",
    ),
    "a file less": ({"volumeFiles": []}, "FileChanged", "/models/a: captured with 5 bytes, here"),
}
"""One fact each -> its Reason and what the message says."""


@pytest.mark.parametrize(("changed", "reason", "message"), BROKEN.values(), ids=list(BROKEN))
def test_one_fact_that_differs(changed, reason, message):
    (field,) = changed
    with pytest.raises(errors.CompatibilityError) as caught:
        compatibility.compare(SOURCE, msgspec.structs.replace(SOURCE, **changed))
    assert caught.value.reason == reason
    assert message in str(caught.value)
    assert caught.value.hint
    of_field = [fact for fact in FACTS if (fact.against or fact.field) == field]
    assert any(str(caught.value).startswith(f"{fact.what}: ") for fact in of_field)


def test_every_fact_is_broken_once():
    broken = {field for changed, _, _ in BROKEN.values() for field in changed}
    assert broken == {fact.against or fact.field for fact in FACTS}
    assert len(FACTS) >= 20
    told = {reason for _, reason, _ in BROKEN.values()}
    assert told == {str(fact.reason) for fact in FACTS}


def test_the_same_fits():
    compatibility.compare(SOURCE, SOURCE)


MORE = {
    "features": {"cpuFeatures": ["amx", *SOURCE.cpuFeatures]},
    "registers": {"signalFrameBytes": 11952},
    "the same kernel with other fixes": {"kernel": "6.18.0-generic"},
    "a newer kernel": {"kernel": "7.0"},
    "a newer CRIU": {"criu": "5.0"},
    "as much memory as was used": {"memoryLimitBytes": 3 << 30},
    "no limits": {"memoryLimitBytes": None, "pidsLimit": None},
    "mounts": {"mounts": [*SOURCE.mounts, Mount(path="/more", kind="disk", readOnly=False)]},
    "shared memory": {"sharedMemoryBytes": 1 << 40},
    "groups in another order": {"user": User(uids=[7] * 4, gids=[8] * 4, groups=[10, 9])},
    "a salt": {"salt": "other"},
    "an id, where a digest was captured": {"imageDigest": "id:sha256:bb"},
    "a digest that the kubelet has not told yet": {"imageDigest": ""},
    "a driver of no GPU": {"gpuDriver": ""},
    "another GPU": {"gpuDevices": [msgspec.structs.replace(GPU, uuid=UUIDS[5], minor=5)]},
    "a larger GPU": {"gpuDevices": [msgspec.structs.replace(GPU, memoryBytes=141 << 30)]},
    "other GPUs of the node": {"gpuNode": [f"{uuid}x" for uuid in UUIDS]},
}


@pytest.mark.parametrize("changed", MORE.values(), ids=list(MORE))
def test_more_than_was_captured_fits(changed):
    compatibility.compare(SOURCE, msgspec.structs.replace(SOURCE, **changed))


def test_an_older_manifest_is_compared_by_what_it_has():
    old = Facts(
        architecture="x86_64", image="llm:1", command=SOURCE.command, environment={"A": "1"}
    )
    compatibility.compare(old, msgspec.structs.replace(SOURCE, environment={"A": "1"}))
    with pytest.raises(errors.CompatibilityError, match="environment"):
        compatibility.compare(old, SOURCE)


@pytest.mark.parametrize(("word", "field"), [("secrets", "secrets"), ("configMaps", "configMaps")])
def test_what_an_administrator_ignores(word, field):
    here = msgspec.structs.replace(SOURCE, **{field: {}})
    compatibility.compare(SOURCE, here, ignore=[word])
    with pytest.raises(errors.CompatibilityError):
        compatibility.compare(SOURCE, here, ignore=["another"])


def test_nothing_else_can_be_ignored():
    here = msgspec.structs.replace(SOURCE, kernel="3.10")
    with pytest.raises(errors.CompatibilityError):
        compatibility.compare(SOURCE, here, ignore=[fact.field for fact in FACTS])


def test_no_message_tells_a_digest():
    """They are of values that are nobody's business."""
    here = msgspec.structs.replace(SOURCE, secrets={"TOKEN": "e7e7e7e7"})
    with pytest.raises(errors.CompatibilityError) as caught:
        compatibility.compare(SOURCE, here)
    assert "e7e7" not in str(caught.value)
    assert "d1" not in str(caught.value)


def test_long_messages_are_cut():
    many = {f"V{number:02}": "1" for number in range(50)}
    with pytest.raises(errors.CompatibilityError, match=r"V00.*V07.* and 42 more") as caught:
        compatibility.compare(
            msgspec.structs.replace(SOURCE, environment=many),
            msgspec.structs.replace(SOURCE, environment={}),
        )
    assert len(str(caught.value)) < 500


def test_the_reasons_of_facts_say_nothing_else():
    ours = {fact.reason for fact in FACTS}
    assert names.Reason.INCOMPATIBLE not in ours
    assert all(fact.hint for fact in FACTS)


def test_gpus_for_a_person():
    other = msgspec.structs.replace(GPU, model="NVIDIA A100")
    assert str(GpuFacts()) == ""
    assert str(GpuFacts(devices=(GPU,))) == "NVIDIA H100"
    assert str(GpuFacts(devices=(GPU, other, GPU))) == "NVIDIA A100, 2x NVIDIA H100"
