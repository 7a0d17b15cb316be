"""What makes two workers of one identity need two artifacts."""

import re

import pytest

from chrek import names, variant

IMAGE = "example/worker:1"
COMMAND = ["python3", "-m", "server", "--port", "8000"]
BASE = variant.name(IMAGE, COMMAND)


def test_shape():
    assert re.fullmatch(r"[0-9a-f]{12}", BASE)


@pytest.mark.parametrize(
    "other",
    [
        variant.name("example/worker:2", COMMAND),
        variant.name(IMAGE, [*COMMAND, ""]),
        variant.name(IMAGE, [" ".join(COMMAND)]),
        variant.name(IMAGE, COMMAND, gpu="H200"),
    ],
)
def test_each_fact_matters(other):
    assert other != BASE


def test_other_machines_have_other_variants(monkeypatch):
    monkeypatch.setattr(variant.platform, "machine", lambda: "aarch64")
    assert variant.name(IMAGE, COMMAND) != BASE


def test_command_and_args_are_one_line():
    split = {"image": IMAGE, "command": COMMAND[:1], "args": COMMAND[1:]}
    assert variant.of_container(split) == BASE
    assert variant.of_container({"image": IMAGE, "args": COMMAND}) == BASE


@pytest.mark.parametrize("wait", [["--wait", "20"], ["--source", "--wait", "300"], []])
def test_injection_does_not_change_the_variant(wait):
    """Source job and worker have chrek-init in front, with different options."""
    injected = [names.INIT_PATH, *wait, "--", *COMMAND]
    assert variant.of_container({"image": IMAGE, "command": injected}) == BASE


def test_a_separator_of_the_worker_itself_stays():
    own = {"image": IMAGE, "command": ["run", "--", "x"]}
    assert variant.worker_command(own) == ["run", "--", "x"]
    injected = {"image": IMAGE, "command": [names.INIT_PATH, "--", "run", "--", "x"]}
    assert variant.worker_command(injected) == ["run", "--", "x"]


@pytest.mark.parametrize("container", [{}, {"command": None, "args": None}])
def test_no_command(container):
    assert variant.worker_command(container) == []


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({"nvidia.com/gpu": 2, "memory": "8Gi"}, "nvidia.com/gpu=2"),
        ({"nvidia.com/gpu": "2"}, "nvidia.com/gpu=2"),
        ({"nvidia.com/mig-1g.5gb": 1, "nvidia.com/gpu": 0}, "nvidia.com/mig-1g.5gb=1"),
        ({"cpu": 4}, ""),
        (None, ""),
    ],
)
def test_workers_with_other_gpu_requests_are_other_variants(limits, wanted):
    container = {"image": IMAGE, "args": COMMAND, "resources": {"limits": limits}}
    assert variant.gpus(container) == wanted
    assert variant.of_container(container) == variant.name(IMAGE, COMMAND, wanted)
    assert (variant.of_container(container) == BASE) is (wanted == "")
