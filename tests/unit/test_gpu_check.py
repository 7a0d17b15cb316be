"""The parts of scripts/gpu-check that need neither a GPU, nor CRIU, nor root."""

import copy
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tarfile
import time
import types

import jsonschema
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from chrek import compatibility
from chrek.cuda import words
from chrek.standalone import place
from gpucheck import (
    bundle,
    container,
    direct,
    elf,
    kernel,
    machine,
    main,
    options,
    plan,
    report,
    rounds,
    workload,
)
from showcase import errors

ROOT = pathlib.Path(__file__).resolve().parents[2]
GIBIBYTE = 1 << 30
SCHEMA = json.loads((ROOT / "schemas" / "gpu-check.schema.json").read_text())
DRIVER = workload.Workload("driver", "driver.py", "python3")
TORCH = workload.Workload("torch", "torch_tensors.py", "python3")
MODEL = workload.Workload("model", "model.py", "python3")


def gpu(minor, model="NVIDIA H200"):
    return compatibility.Gpu(
        uuid=f"GPU-{minor}",
        minor=minor,
        model=model,
        memoryBytes=140 << 30,
        computeCapability="9.0",
    )


def usage(minor, free):
    return words.Usage(uuid=f"GPU-{minor}", freeBytes=free, persistence=True, processes={})


def sight(tmp_path, version="Linux version 6.8.0-45-generic #45-Ubuntu SMP", log="", memory=64):
    (tmp_path / "version").write_text(version + "\n")
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:  {memory << 20} kB\n")
    return machine.Sight(proc=tmp_path, kernel_log=log)


# ---- programs ----


def test_types():
    """The workers run by another Python and have none."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--exclude", "scripts/gpucheck/workers"),
            "scripts/gpucheck",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_script_is_executable():
    assert (ROOT / "scripts" / "gpu-check").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--repeat", "0"], "a number of rounds"),
        (["--sizes", "1,0"], "GiB from 0.001 up"),
        (["--sizes", "all"], "GiB from 0.001 up"),
        (["--only", "jax"], "invalid choice"),
        (["--quik"], "unrecognized arguments"),
    ],
)
def test_usage_is_checked_before_anything_is_built(arguments, said):
    command = [sys.executable, ROOT / "scripts" / "gpu-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr


def test_help_has_examples_and_exit_statuses():
    command = [sys.executable, ROOT / "scripts" / "gpu-check", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "scripts/gpu-check --quick --output" in done.stdout
    for status in (main.OK, main.NOT_VERIFIED, main.NO_DRIVER, main.NO_CRIU, main.NOT_ROOT):
        assert f"{status} " in done.stdout.partition("Exit status:")[2]


def test_options():
    assert options.parse("", []).sizes == [1, 8, 32]
    assert options.parse("", ["--sizes", "8,1"]).sizes == [1, 8]
    quick = options.parse("", ["--quick"])
    assert quick.sizes == [1, 8]
    assert quick.budget < 240
    assert options.parse("", ["--quick", "--budget", "100"]).budget == 100
    assert options.parse("", ["--only", "torch"]).only == ["torch"]


# ---- the machine ----


@pytest.mark.parametrize(
    ("version", "log", "mark"),
    [
        ("Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016", "", "/proc/version is"),
        ("Linux version 4.19.0-gvisor (gvisor@host)", "", "/proc/version is"),
        ("Linux version 6.8", "[   0.000000] Starting gVisor...\n[ 0.3] x", "the kernel log says"),
        ("Linux version 6.8", "[   0.000000] Linux version 6.8", ""),
        ("Linux version 4.4.0-210-generic #242-Ubuntu SMP Fri Apr 16", "", ""),
    ],
)
def test_gvisor_is_known_by_its_words(tmp_path, version, log, mark):
    seen = sight(tmp_path, version, log)
    assert machine.gvisor(seen).startswith(mark)
    assert bool(machine.gvisor(seen)) == bool(mark)
    assert (machine.kind(seen) == "gVisor") == bool(mark)


def test_missing_capabilities_are_named():
    assert machine.missing_capabilities(-1) == []
    without = ~(1 << kernel.CAPABILITIES["CAP_SYS_PTRACE"])
    assert machine.missing_capabilities(without) == ["CAP_SYS_PTRACE"]
    assert len(machine.missing_capabilities(0)) == len(kernel.CAPABILITIES)


def test_own_processes_can_be_traced():
    assert kernel.ptrace_works() == ""


def test_only_root_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main.main(options.parse("", [])) == main.NOT_ROOT
    assert "use sudo" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--folder", "--output"])
def test_a_folder_that_is_not_there_is_said_at_once(monkeypatch, capsys, tmp_path, option):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    value = str(tmp_path / "missing" / ("" if option == "--folder" else "out.json"))
    assert main.main(options.parse("", [option, value])) == main.NOT_VERIFIED
    assert f"name another one with {option}" in capsys.readouterr().err


# ---- containers ----


def test_a_container_has_its_gpus_and_what_all_gpus_share(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    (tmp_path / "nvidia-caps").mkdir()
    (tmp_path / "nvidia-caps" / "nvidia-cap1").touch()
    found = place.gpu_devices(tmp_path, [1])
    assert sorted(found) == ["nvidia-caps/nvidia-cap1", "nvidia-uvm", "nvidia1", "nvidiactl"]
    assert found["nvidia1"] == str(tmp_path / "nvidia1")
    assert sorted(place.gpu_devices(tmp_path, [0, 10]))[2:4] == ["nvidia0", "nvidia10"]


def test_mounts_of_the_kernel_and_our_own_are_not_bound():
    found = container.binds(pathlib.Path("/nowhere"))
    assert not any(path == "/" or path.startswith(("/proc", "/sys", "/dev")) for path in found)
    assert not container.binds(pathlib.Path("/"))


def test_a_skeleton_has_links_and_empty_folders(tmp_path):
    bound = container.skeleton(tmp_path)
    assert "/usr" in bound
    assert "/tmp" in bound
    assert not {"/proc", "/sys", "/dev"} & set(bound)
    assert not list((tmp_path / "usr").iterdir())
    for entry in os.scandir("/"):
        if entry.is_symlink():
            assert os.readlink(tmp_path / entry.name) == os.readlink(entry.path)


def test_a_worker_tells_when_it_is_ready():
    output = 'noise\nworker ready {"device_bytes": 5, "gpus": 1, "port": 8000}\n'
    assert workload.wait_until_ready(lambda: output, lambda: False)["device_bytes"] == 5


def test_last_words_of_a_worker_that_ended():
    with pytest.raises(errors.ShowError, match=r"(?s)the worker ended: .*no GPU"):
        workload.wait_until_ready(lambda: "Traceback\nno GPU", lambda: True)
    # Half a line is not read as a whole one.
    with pytest.raises(errors.ShowError, match=r"not ready in 0\.05 s"):
        workload.wait_until_ready(lambda: 'worker ready {"dev', lambda: False, seconds=0.05)


def test_packages_of_another_python():
    found = workload.packages(sys.executable, "msgspec", "no-such-package")
    assert list(found) == ["msgspec"]
    with pytest.raises(OSError, match="no-such-python"):
        workload.packages("/no-such-python", "torch")


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ("__version__, version = '2', type('V', (), {'cuda': None})", "is built without CUDA"),
        ("raise OSError('libcudart.so.13: not there')", "libcudart.so.13: not there"),
        (
            "class version: cuda = '13'\nclass cuda:\n  def init(): raise RuntimeError('No GPU')",
            "RuntimeError: No GPU",
        ),
        ("class version: cuda = '13.0'\nclass cuda:\n  def init(): pass", ""),
    ],
)
def test_why_torch_cannot_use_a_gpu(tmp_path, monkeypatch, torch, said):
    (tmp_path / "torch.py").write_text(torch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = workload.torch_sees_no_gpu(sys.executable)
    assert said in found
    assert bool(said) == bool(found)


# ---- rounds ----


def titles(found):
    return [one.title for one in found]


def test_rounds_the_most_telling_first():
    found = plan.rounds_of(
        [DRIVER, TORCH, MODEL], [GIBIBYTE, 8 * GIBIBYTE], [gpu(0), gpu(1)], repeat=3
    )
    assert titles(found) == [
        *("driver 1 GiB", "torch 1 GiB", "model 1 GiB"),
        *("driver 1 GiB, other GPU", "torch 1 GiB, other GPU"),
        *("driver 1 GiB", "torch 1 GiB") * 2,
        *("driver 8 GiB", "torch 8 GiB"),
    ]
    # The captured worker goes on once for each kind.
    assert [one.goes_on for one in found] == [True] * 3 + [False] * 8
    assert found[3].source_gpus == [0]
    assert found[3].target_gpus == [1]


@pytest.mark.parametrize("gpus", [[gpu(3)], [gpu(3), gpu(4, "NVIDIA A100")]])
def test_no_other_gpu_or_none_of_its_kind(gpus):
    found = plan.rounds_of([DRIVER], [GIBIBYTE], gpus, repeat=1)
    assert titles(found) == ["driver 1 GiB"]
    assert found[0].source_gpus == [3]


@pytest.mark.parametrize(
    ("free", "memory", "disk", "said"),
    [
        (80, 64, 100, ""),
        (8, 64, 100, "the GPU's memory has 8.59 GB free, 9.66 GB are needed"),
        (80, 10, 100, "host memory has 10.74 GB free"),
        (80, 64, 8, "/there has 8.59 GB free"),
    ],
)
def test_what_has_no_room_is_named_with_why(monkeypatch, tmp_path, free, memory, disk, said):
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=disk << 30))
    (wanted,) = plan.rounds_of([DRIVER], [8 * GIBIBYTE], [gpu(0)], repeat=1)
    found = plan.no_room(
        *(wanted, [usage(0, free << 30), usage(1, 0)], [gpu(0), gpu(1)]),
        *(pathlib.Path("/there"), sight(tmp_path, memory=memory)),
    )
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_both_gpus_of_a_move_need_room(tmp_path):
    gpus = [gpu(0), gpu(1)]
    wanted = plan.rounds_of([DRIVER], [GIBIBYTE], gpus, repeat=1)[1]
    full = [usage(0, 80 << 30), usage(1, 1 << 30)]
    assert "the GPU's memory" in plan.no_room(wanted, full, gpus, tmp_path, sight(tmp_path))


def test_a_round_that_would_end_too_late_is_not_begun():
    left = 100.0
    clock = plan.Clock(lambda: left)
    small, big = plan.rounds_of([DRIVER], [GIBIBYTE, 32 * GIBIBYTE], [gpu(0)], repeat=1)
    assert clock.no_time(small) == ""
    assert clock.no_time(big) == "it would take about 170 s, and 100 s are left"
    # What was seen counts more than what was thought.
    clock.note(small, 95.0)
    left = 60.0
    assert "95 s" in clock.no_time(small)


def test_own_seconds_are_what_neither_criu_nor_the_driver_takes():
    seconds = {"criu": 3.0, "gpu_restore": 1.0, "gpu_unlock": 0.5, "stage": 0.02, "total": 4.56}
    assert rounds.own_seconds(seconds) == pytest.approx(0.06)


# ---- the report ----


def one_round(**changes):
    found = {
        "workload": "driver",
        "gibibytes": 1.0,
        "source_gpus": [0],
        "target_gpus": [0],
        "verified": True,
        "round_seconds": 9.0,
        "worker": {"device_bytes": 10**9, "gpus": 1, "port": 8000},
        "capture": {
            "seconds": {"gpu_lock": 0.001, "gpu_checkpoint": 0.5, "dump": 1.0, "total": 2.0},
            "artifact_bytes": 2 * 10**9,
            "gpu_processes": 1,
            "gpu_bytes": 10**9,
        },
        "restore": {
            "seconds": {"criu": 0.5, "gpu_restore": 0.25, "gpu_unlock": 0.01, "total": 0.8},
            "own_seconds": 0.04,
        },
        "restored": {"verified": True, "wrong": [], "seconds": 0.1},
    }
    return {**found, **changes}


def whole(*found, direct=None, runs=True, skipped=()):
    made = {
        "what": "gpu-check",
        "version": 1,
        "chrek": "0.2.0",
        "options": {"quick": False, "sizes": [1.0], "repeat": 3},
        "machine": {
            "date": "2026-01-02T03:04:05Z",
            **{"cpu": "x", "cpus": 2, "memory_bytes": 1, "kernel": "6.8", "kind": "machine"},
            **{"transparent_hugepages": "madvise", "driver": "580.65.06", "cuda_api": 13000},
            "gpus": [
                {
                    **{"minor": 0, "model": "NVIDIA H200", "memory_bytes": 1},
                    **{"compute_capability": "9.0", "partitioned": False, "persistence": True},
                }
            ],
        },
        "criu": {"runs": runs, "version": "4.2", "why": [], "restrictions": []},
        "packages": {},
        "limits": {"device_to_host_pinned": 50.0, "disk_write": 4.0},
        "direct": direct,
        "rounds": list(found),
        "skipped": list(skipped),
        "figures": {},
        "verified": False,
    }
    report.finish(made)
    return made


def one_direct(**changes):
    steps = {"gpu_lock": 0.1, "gpu_checkpoint": 1.0, "gpu_restore": 0.5, "gpu_unlock": 0.1}
    slower = {**steps, "gpu_checkpoint": 1.2}
    found = {
        **{"gibibytes": 1.0, "verified": True, "device_bytes": 2 * 10**9, "wrong": []},
        **{"helper": [steps, slower, steps], "by_hand": [steps] * 3},
    }
    return {**found, "summary": direct.summary(found), **changes}


def test_rates_are_of_what_each_stage_moves():
    made = whole(one_round())["rounds"][0]
    assert made["capture"]["gb_per_second"] == {"gpu_checkpoint": 2.0, "dump": 2.0, "total": 1.0}
    assert made["restore"]["gb_per_second"] == {"gpu_restore": 4.0, "criu": 4.0, "total": 2.5}
    assert made["ratios"] == {"gpu_checkpoint_of_device_to_host": 0.04, "dump_of_disk_write": 0.5}


def test_the_driver_by_hand_is_what_the_helper_is_held_against():
    found = one_direct()["summary"]
    assert found["of_by_hand"] == {"ratio": 1.0, "aim": direct.AIM, "aim_met": True}
    assert found["gb_per_second"] == {"gpu_checkpoint": 2.0, "gpu_restore": 4.0}
    slow = one_direct()
    slow["helper"] = [{**one, "gpu_restore": 0.7} for one in slow["helper"]]
    assert direct.summary(slow)["of_by_hand"]["aim_met"] is False


def test_the_schema_takes_results_and_no_others():
    check = jsonschema.Draft202012Validator(SCHEMA)
    good = whole(one_round(), direct=one_direct())
    check.validate(good)
    check.validate(whole(one_round(verified=False, error="criu dump failed"), runs=False))
    for wrong in (
        {"machine": {}},
        {"more": 1},
        {"skipped": [{"what": "torch", "why": ""}]},
        {"limits": {"disk_write": "fast"}},
        {"rounds": [{k: v for k, v in good["rounds"][0].items() if k != "restored"}]},
    ):
        assert not check.is_valid({**copy.deepcopy(good), **wrong}), wrong


def test_verified_means_that_something_ran_and_all_of_it_is_right():
    assert whole(one_round())["verified"] is True
    assert whole()["verified"] is False
    assert whole(one_round(), one_round(verified=False))["verified"] is False
    assert whole(one_round(), direct=one_direct(verified=False))["verified"] is False
    assert whole(direct=one_direct())["verified"] is True


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (whole(one_round()), main.OK),
        (whole(one_round(verified=False)), main.NOT_VERIFIED),
        (whole(), main.NOT_VERIFIED),
        (whole(direct=one_direct(), runs=False), main.NO_CRIU),
        (whole(direct=one_direct(verified=False), runs=False), main.NOT_VERIFIED),
    ],
)
def test_exit_status(made, status):
    assert main.exit_status(made) == status


def test_the_aim_of_a_restore_counts_the_median():
    made = [
        one_round(restore={**one_round()["restore"], "own_seconds": own}) for own in (0.04, 0.06, 9)
    ]
    figure = whole(*made)["figures"]["own_seconds_of_a_restore"]
    assert figure == {"median": 0.06, "most": 9, "aim": 0.07, "aim_met": True}


def test_the_table_says_what_was_not_verified_or_not_done():
    failed = one_round(verified=False, workload="torch", target_gpus=[1])
    failed["restored"] = {"verified": False, "wrong": ["tensor 3"], "seconds": 1.0}
    cold = {key: one_round()[key] for key in ("gibibytes", "source_gpus", "target_gpus")}
    cold |= {"workload": "model", "verified": False, "error": "the worker ended: no module"}
    skipped = [{"what": "torch 32 GiB", "why": "host memory has 1 GB free"}]
    text = report.render(whole(one_round(), failed, cold, direct=one_direct(), skipped=skipped))
    lines = [line.split("  ") for line in text.splitlines()]
    row = next(line for line in lines if line[0] == "driver 1 GiB")
    assert "0.500 (2.0)" in [cell.strip() for cell in row]
    assert row[-1].strip() == "yes"
    assert "NOT VERIFIED torch: tensor 3" in text
    assert "torch 1 GiB, other GPU" in text
    assert "NOT VERIFIED model: the worker ended: no module" in text
    assert "SKIPPED torch 32 GiB: host memory has 1 GB free" in text
    assert text.splitlines()[-1] == "NOT verified"


def test_a_result_is_written_whole(tmp_path):
    path = tmp_path / "out.json"
    report.write({"a": 1}, path)
    report.write({"a": 2}, path)
    assert json.loads(path.read_text()) == {"a": 2}
    assert [found.name for found in tmp_path.iterdir()] == ["out.json"]


def test_results_in_the_repository():
    """The page says that nothing was verified until there is a result, and all fit the schema."""
    results = sorted((ROOT / "docs" / "gpu").glob("*.json"))
    page = (ROOT / "docs" / "gpu" / "README.md").read_text()
    assert ("Not verified" in page) == (not results)
    for path in results:
        jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(path.read_text()))
        assert f"]({path.name})" in page


# ---- the bundle ----


def test_needed_libraries_are_those_of_the_headers():
    python = pathlib.Path(sys.executable).resolve()
    assert "libc.so.6" in elf.needed(python)
    assert elf.needed(pathlib.Path(__file__)) == []
    assert elf.machine(python) == platform.machine()


def test_libraries_of_libraries_are_found_and_missing_ones_named(tmp_path):
    python = pathlib.Path(sys.executable).resolve()
    library = next(
        path
        for folder in ("/usr/lib", "/lib")
        for path in pathlib.Path(folder).rglob("libm.so.6")
        if elf.machine(path) == platform.machine()
    )
    found = elf.closure([library], [library.parent])
    assert "libc.so.6" in found
    with pytest.raises(FileNotFoundError) as caught:
        elf.closure([python], [tmp_path])
    assert caught.value.filename in elf.needed(python)


def test_packages_are_copied_by_their_records(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "PACKAGES", ("nvidia-ml-py",))
    site, target = tmp_path / "site", tmp_path / "packages"
    described = site / "nvidia_ml_py-13.dist-info"
    described.mkdir(parents=True)
    (site / "pynvml.py").write_text("x")
    (site / "other.py").write_text("x")
    lines = ["pynvml.py,sha256=abc,1", "../../bin/tool,,", "nvidia_ml_py-13.dist-info/RECORD,,"]
    (described / "RECORD").write_text("\n".join([*lines, "tests/test_it.py,,", "a.pxd,,"]))
    bundle._packages(site, target)
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert found == ["nvidia_ml_py-13.dist-info/RECORD", "pynvml.py"]
    monkeypatch.setattr(bundle, "PACKAGES", ("blake3",))
    with pytest.raises(errors.ShowError, match="the image lacks the package blake3"):
        bundle._packages(site, tmp_path / "more")


needs_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="optional: bundles are for x86_64"
)
PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit 0
echo "$CHREK_LIBEXEC" "$@" "where $(cat "$CHREK_GPU_CHECK_SEEN/where")"
[ "$5" != wait ] && exit 7
trap 'echo told; exit 9' TERM
echo waiting
while :; do sleep 0.1; done
"""


@pytest.fixture
def file(tmp_path):
    """A bundle with a shell script for Python."""
    made = tmp_path / "made"
    (made / "python" / "bin").mkdir(parents=True)
    python = made / "python" / "bin" / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    output = tmp_path / "gpu-check.run"
    bundle.write(made, output)
    (tmp_path / "unpacked").mkdir()
    return output


def environment(file, **more):
    kept = {"PATH": os.environ["PATH"], "TMPDIR": str(file.parent / "unpacked")}
    return {**kept, **more}


def test_bundles_of_the_same_are_the_same(file, tmp_path):
    again = tmp_path / "again"
    bundle.write(tmp_path / "made", again)
    assert again.read_bytes() == file.read_bytes()
    lines = file.read_bytes().split(b'exit "$status"\n')[0].count(b"\n") + 1
    with open(tmp_path / "rest", "wb") as rest:
        rest.write(b"\n".join(file.read_bytes().split(b"\n")[lines:]))
    with tarfile.open(tmp_path / "rest") as tar:
        assert "python/bin/python3" in tar.getnames()


@needs_x86
@pytest.mark.parametrize("tree", ["", "/some/checkout"])
def test_a_bundle_unpacks_itself_hands_on_arguments_and_cleans_up(file, tree):
    more = {"CHREK_GPU_CHECK_TREE": tree} if tree else {}
    done = subprocess.run(
        ["sh", file, "--output", "a b"],
        env=environment(file, **more),
        capture_output=True,
        text=True,
        check=False,
        cwd=file.parent,
    )
    assert done.returncode == 7, done.stderr
    folder = done.stdout.split("/libexec")[0]
    where = tree or f"{folder}/tree"
    assert done.stdout == (
        f"{folder}/libexec -u {where}/scripts/gpu-check here --output a b where {where}\n"
    )
    assert folder.startswith(f"{file.parent}/unpacked/")
    assert not list((file.parent / "unpacked").iterdir())


@needs_x86
def test_a_bundle_that_is_stopped_lets_the_check_end_first(file):
    with subprocess.Popen(
        ["sh", file, "x", "wait"], env=environment(file), stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        while (line := running.stdout.readline()) != "waiting\n":
            assert line
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == "told\n"
        assert running.wait(timeout=20) == 9
    until = time.monotonic() + 10
    while list((file.parent / "unpacked").iterdir()):
        assert time.monotonic() < until
        time.sleep(0.05)
