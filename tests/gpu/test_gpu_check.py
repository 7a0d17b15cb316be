"""scripts/gpu-check on the stand-in: real CRIU and containers, a node's directory for its GPUs.

A machine with GPUs is a mount namespace whose /dev has device files of them, and whose stand-in
node is a file system of its own, as everything that containers share with their machine is.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jsonschema
import pytest

from chrek.cuda import client
from gpu.standin import build
from gpucheck import bundle, container, direct, rounds, workload
from showcase import sandbox

pytestmark = pytest.mark.system
ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "schemas" / "gpu-check.schema.json").read_text())
GPU_CHECK = ROOT / "scripts" / "gpu-check"
MIB = 1 << 20
PLAIN = """
set -e
mount --make-rprivate /
"""
STACKED = """
set -e
mount --make-rprivate /
mount -t tmpfs none "$FOLDER/stack"
cd "$FOLDER/stack"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" root
for path in "$CHREK_LIBEXEC" "$CHECKOUT" "$FOLDER"; do
    mkdir -p "root$path"
    mount --bind "$path" "root$path"
done
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mkdir old
pivot_root . old
cd /
"""
"""A machine that is a container: its root is an overlay already."""
MACHINE = """
mount -t tmpfs none "$CHREK_STANDIN_NODE"
cp -r "$FOLDER/conf/." "$CHREK_STANDIN_NODE"
mount -t tmpfs none "$FOLDER/dev"
for device in null:3 zero:5 full:7 random:8 urandom:9 $GPU_FILES; do
    mknod -m 666 "$FOLDER/dev/${device%:*}" c 1 "${device#*:}"
done
mknod -m 666 "$FOLDER/dev/tty" c 5 0
mkdir "$FOLDER/dev/pts" "$FOLDER/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$FOLDER/dev/pts"
mount -t tmpfs shm "$FOLDER/dev/shm"
ln -s pts/ptmx "$FOLDER/dev/ptmx"
ln -s /proc/self/fd "$FOLDER/dev/fd"
mount --rbind "$FOLDER/dev" /dev
[ ! -e /old ] || umount -l /old
if [ -n "$VERSION" ]; then
    echo "$VERSION" > "$FOLDER/version"
    mount --bind "$FOLDER/version" /proc/version
fi
exec "$@"
"""


class Machine:
    """Runs programs as on a machine of its own."""

    def __init__(self, folder: pathlib.Path, libraries: pathlib.Path, gpus: int = 2) -> None:
        self.folder = folder
        for name in ("node", "dev", "stack", "conf"):
            (folder / name).mkdir()
        devices = [
            build.Gpu(minor=minor, uuid=build.gpu_uuid(f"check/{minor}"), bytes=512 * MIB)
            for minor in range(gpus)
        ]
        self.node = build.Node(folder / "conf", devices)
        names = ["nvidiactl", "nvidia-uvm", *(f"nvidia{gpu.minor}" for gpu in devices)]
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "CHREK_LIBEXEC": os.environ["CHREK_LIBEXEC"],
            "PYTHONPATH": f"{ROOT}/src",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": str(libraries),
            "CHREK_STANDIN_NODE": str(folder / "node"),
            "FOLDER": str(folder),
            "CHECKOUT": str(ROOT),
            "GPU_FILES": " ".join(f"{name}:3" for name in names),
            "VERSION": "",
        }

    def run(
        self, *argv: str | pathlib.Path, stacked: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        script = (STACKED if stacked else PLAIN) + MACHINE
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child",
             "sh", "-c", script, "sh", *argv],
            env={**self.environment, **environment}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip

    def check(
        self, *options: str, **more: Any
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        """The script in this Python; what it said, and its result."""
        output = self.folder / "out.json"
        given = ["--folder", str(self.folder), "--output", str(output), *options]
        done = self.run(sys.executable, GPU_CHECK, "here", *given, **more)
        assert output.exists(), done.stdout + done.stderr
        found: dict[str, Any] = json.loads(output.read_text())
        jsonschema.Draft202012Validator(SCHEMA).validate(found)
        return done, found


@pytest.fixture
def machine(
    tmp_path: pathlib.Path, libraries: pathlib.Path, libexec: pathlib.Path
) -> Iterator[Machine]:
    made = Machine(tmp_path, libraries)
    yield made
    # Nothing is left: neither artifacts nor containers.
    assert not list(tmp_path.glob("chrek-*"))


def test_everything_is_verified(machine: Machine) -> None:
    done, found = machine.check("--sizes", "0.06,0.1", "--repeat", "2", "--python", "/no-python")
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["verified"] is True
    assert found["machine"]["driver"] == machine.node.driver
    made = [(one["gibibytes"], one["target_gpus"]) for one in found["rounds"]]
    assert [(round(size, 2), gpus) for size, gpus in made] == [
        *((0.06, [0]), (0.06, [1]), (0.06, [0]), (0.1, [0])),
    ]
    for one in found["rounds"]:
        assert one["capture"]["gpu_processes"] == 1
        assert one["worker"]["device_bytes"] > 60 * MIB
        seconds = {**one["capture"]["seconds"], **one["restore"]["seconds"]}
        assert {"gpu_lock", "gpu_checkpoint", "dump", "digest", "sync"} < set(seconds)
        assert {"stage", "criu", "gpu_restore", "gpu_unlock"} < set(seconds)
        # The memory was in the process when CRIU dumped it, and comes back by the driver.
        assert one["capture"]["artifact_bytes"] > one["worker"]["device_bytes"]
    assert "went_on" in found["rounds"][0]
    assert len(found["direct"]["by_hand"]) == 2
    assert set(found["limits"]) == set(SCHEMA["properties"]["limits"]["properties"])
    assert found["figures"]["own_seconds_of_a_restore"]["most"] > 0
    assert [one["what"] for one in found["skipped"]] == ["torch", "model"]
    assert "SKIPPED torch: /no-python has no torch" in done.stdout
    assert done.stdout.splitlines()[-1] == "every byte was verified"


def test_a_machine_that_is_a_container(machine: Machine) -> None:
    """An overlay cannot be laid over its root: CRIU would find no file that is mapped of it."""
    options = ("--sizes", "0.06", "--repeat", "1", "--only", "driver")
    done, found = machine.check(*options, stacked=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(found["rounds"]) == 2


def test_artifacts_in_memory(machine: Machine) -> None:
    options = ("--sizes", "0.06", "--repeat", "1", "--only", "driver", "--folder", "/dev/shm")
    done, _ = machine.check(*options)
    assert done.returncode == 0, done.stdout + done.stderr


def test_gvisor_is_named_and_the_cuda_part_done(machine: Machine) -> None:
    version = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016"
    done, found = machine.check("--sizes", "0.06", "--only", "driver", VERSION=version)
    assert done.returncode == 4, done.stdout + done.stderr
    assert found["criu"]["runs"] is False
    assert found["criu"]["why"][0].startswith("this is gVisor (/proc/version is 'Linux version 4")
    assert found["machine"]["kind"] == "gVisor"
    assert found["direct"]["verified"] is True
    assert found["rounds"] == []
    assert found["verified"] is True
    assert "CRIU CANNOT RUN: this is gVisor" in done.stdout


def test_what_criu_lacks_is_named(machine: Machine) -> None:
    """Without the right to make namespaces, say, in a container that is not privileged."""
    argv = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable]
    output = machine.folder / "out.json"
    given = ["--folder", str(machine.folder), "--output", str(output)]
    given += ["--sizes", "0.06", "--only", "driver"]
    done = machine.run(*argv, GPU_CHECK, "here", *given)
    assert done.returncode == 4, done.stdout + done.stderr
    found = json.loads(output.read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert any("no container can be made: " in why for why in found["criu"]["why"])
    assert any("CAP_SYS_ADMIN" in text for text in found["criu"]["restrictions"])
    assert found["direct"]["verified"] is True


def test_no_driver(machine: Machine) -> None:
    done = machine.run(sys.executable, GPU_CHECK, "here", LD_LIBRARY_PATH="")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "error: no NVIDIA driver: libcuda.so.1 and libnvidia-ml.so.1" in done.stderr


def test_a_driver_that_does_not_work(machine: Machine) -> None:
    machine.node.fail("init 100")
    done = machine.run(sys.executable, GPU_CHECK, "here", "--folder", machine.folder)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "error: the driver cannot be used: " in done.stderr
    assert "CUDA_ERROR_NO_DEVICE" in done.stderr


def test_not_root(machine: Machine) -> None:
    # A user of no name, who may still read what root has.
    done = machine.run("unshare", "--user", sys.executable, GPU_CHECK, "here")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "use sudo" in done.stderr


@contextlib.contextmanager
def bound(source: pathlib.Path, target: pathlib.Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", target], check=True)


class Moving(rounds.Rig):
    """Containers of the source see one node at a path, and those of the target another."""

    nodes: dict[str, pathlib.Path]
    path: pathlib.Path

    @contextlib.contextmanager
    def container(
        self, side: rounds.Side, kind: str, minors: Sequence[int], *argv: str
    ) -> Iterator[container.Container]:
        with (
            bound(self.nodes[kind], self.path),
            super().container(side, kind, minors, *argv) as made,
        ):
            yield made


@pytest.fixture
def moving(
    tmp_path: pathlib.Path,
    libraries: pathlib.Path,
    libexec: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Moving, dict[str, build.Node]]]:
    """Two nodes with two GPUs each, and who speaks to the driver of each."""
    path = tmp_path / "current"
    path.mkdir()
    nodes, sides = {}, {}
    with contextlib.ExitStack() as stack:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
        for kind in ("source", "target"):
            node = stack.enter_context(sandbox.tmpfs(tmp_path / kind))
            nodes[kind] = build.Node(node / "node", 2)
            nodes[kind].gpus = [
                build.Gpu(minor=n, uuid=build.gpu_uuid(f"{kind}/{n}"), bytes=256 * MIB)
                for n in range(2)
            ]
            nodes[kind].write()
            devices = tmp_path / f"dev-{kind}"
            devices.mkdir()
            nodes[kind].device_files(devices)
            folder = tmp_path / f"containers-{kind}"
            folder.mkdir()
            place = container.Place(
                folder=folder, seen=[ROOT], devices=devices,
                environment={**os.environ, "CHREK_STANDIN_NODE": str(path)},
            )  # fmt: skip
            monkeypatch.setenv("CHREK_STANDIN_NODE", str(nodes[kind].path))
            helper = client.Helper(scratch=tmp_path / f"driver-{kind}")
            stack.callback(helper.close)
            helper.start()
            sides[kind] = rounds.Side(place, helper)
        rig = Moving(tmp_path, sides["source"], sides["target"])
        rig.path = path
        rig.nodes = {kind: node.path for kind, node in nodes.items()}
        yield rig, nodes


def wanted(**changes: Any) -> rounds.Wanted:
    given = {"work": workload.driver(), "device_bytes": 48 * MIB, **changes}
    return rounds.Wanted(**{"source_gpus": [0, 1], "target_gpus": [0, 1], **given})


def test_both_gpus_move_to_another_node(
    moving: tuple[Moving, dict[str, build.Node]],
) -> None:
    rig, _ = moving
    found = rounds.run(rig, wanted(goes_on=True))
    assert found["verified"], found
    assert found["worker"]["gpus"] == 2
    assert found["went_on"]["verified"]
    assert "gpu_restore" in found["capture"]["seconds"]
    assert rounds.run(rig, wanted(source_gpus=[0], target_gpus=[1]))["verified"]
    # Nothing is left on either.
    assert not list((rig.store.base).glob("*/*/*"))


def test_what_the_driver_refuses_is_not_verified(
    moving: tuple[Moving, dict[str, build.Node]],
) -> None:
    rig, nodes = moving
    nodes["target"].fail("restore 999")
    found = rounds.run(rig, wanted())
    assert found["verified"] is False
    assert "CUDA_ERROR_UNKNOWN" in found["error"]
    nodes["target"].fail()
    nodes["source"].fail("checkpoint 2")
    found = rounds.run(rig, wanted())
    assert found["verified"] is False
    assert "capture" not in found
    nodes["source"].fail()
    assert rounds.run(rig, wanted())["verified"]


def test_a_worker_without_cuda_is_not_verified(
    moving: tuple[Moving, dict[str, build.Node]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture that does not see the GPU's memory must not pass for one that does."""
    rig, _ = moving
    source = 'import answering\nanswering.serve({"device_bytes": 1, "gpus": 1}, {"check": lambda:'
    program = rig.folder / "program.py"
    program.write_text(f"{source} {{'verified': True, 'wrong': []}}}})\n")
    folder = ROOT / "scripts" / "gpucheck" / "workers"
    environment = {**rig.source.place.environment, "PYTHONPATH": str(folder)}
    rig.source.place.environment.update(environment)  # type: ignore[attr-defined]
    work = workload.Workload("driver", str(program), sys.executable)
    found = rounds.run(rig, wanted(work=work))
    assert found["verified"] is False
    assert "did not say that the worker uses CUDA" in found["error"]


@pytest.mark.parametrize("make", [workload.torch, workload.model])
def test_workers_of_torch_on_the_cpu(
    moving: tuple[Moving, dict[str, build.Node]], make: Callable[[str, str], workload.Workload]
) -> None:
    """The stand-in runs no kernels; this shows that their programs do what they say."""
    python = os.environ.get("CHREK_TORCH_PYTHON")
    if not python:
        pytest.skip("optional: name a Python with torch and transformers in CHREK_TORCH_PYTHON")
    rig, _ = moving
    found = rounds.run(rig, wanted(work=make(python, "cpu"), goes_on=True))
    assert found["verified"], found
    assert found["worker"]["torch"]


def flip(path: pathlib.Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_one_wrong_bit_is_found(
    tmp_path: pathlib.Path, libraries: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = build.Gpu(minor=0, uuid=build.gpu_uuid("bit"), bytes=64 * MIB)
    node = build.Node(tmp_path / "node", [gpu])
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
    monkeypatch.setenv("CHREK_STANDIN_NODE", str(node.path))
    device = tmp_path / "dev"
    device.mkdir()
    node.device_files(device)
    argv = [
        *("unshare", "--mount", "--propagation=private", "sh", "-c"),
        *('mount --rbind "$0" /dev; exec "$@"', str(device)),
        *workload.driver().argv(16 * MIB, port=0),
    ]
    with direct.process(argv) as worker:
        assert worker.ask("check")["verified"]
        assert worker.ask("bandwidth")["device_to_host_pinned"] > 0
        assert worker.ask("check")["verified"]
        allocations = node.files(0)
        assert sum(path.stat().st_size for path in allocations) == 16 * MIB
        for path, at in [(path, path.stat().st_size - 1) for path in allocations]:
            flip(path, at)
            answer = worker.ask("check")
            assert answer["verified"] is False
            assert len(answer["wrong"]) == 1
            assert answer["wrong"][0].startswith("chunk ")
            flip(path, at)
        assert worker.ask("check")["verified"]


@pytest.mark.heavy
def test_the_bundle_runs_alone(
    machine: Machine, tmp_path: pathlib.Path, libraries: pathlib.Path
) -> None:
    """On a machine with nothing but the file: no checkout, no package, no Python of the tests'."""
    file = tmp_path / "gpu-check.run"
    bundle.make(file)
    assert file.stat().st_size < 64 * MIB
    output = tmp_path / "out.json"
    given = ["--sizes", "0.06", "--repeat", "1", "--only", "driver", "--output", str(output)]
    alone = [
        f"{key}={machine.environment[key]}" for key in ("LD_LIBRARY_PATH", "CHREK_STANDIN_NODE")
    ]
    empty = ["env", "-i", "PATH=/usr/bin:/bin", f"TMPDIR={tmp_path}", *alone]
    done = machine.run(*empty, "sh", file, *given)
    assert done.returncode == 0, done.stdout + done.stderr
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(output.read_text()))
