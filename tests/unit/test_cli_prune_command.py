"""`chrek prune`: what it takes, and a store that gets another key. `--dry-run` is tested beside."""

import os

import pytest
import yaml
from click import testing

from chrek import cli, errors, names
from chrek.remote import bucket, keys, opening, rekey, seal, storekeys
from fakes import backend as fake_backend
from fakes import node as nodes


@pytest.fixture
def run():
    def call(*arguments):
        return testing.CliRunner().invoke(cli.main, ["prune", *arguments])

    return call


@pytest.fixture
def secret(tmp_path):
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "key").write_bytes(os.urandom(32).hex().encode())
    return folder


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Writes an AgentConfig."""
    monkeypatch.setenv("POD_NAMESPACE", "chrek")

    def write(**storage):
        path = tmp_path / "agent.yaml"
        found = {
            "apiVersion": names.CONFIG_API_VERSION,
            "kind": "AgentConfig",
            "release": "chrek-chrek",
            "watchNamespaces": ["chrek", "team"],
            "storage": storage,
        }
        path.write_text(yaml.safe_dump(found))
        return str(path)

    return write


def test_without_its_configuration(run):
    result = run("--config", "/nonexistent/chrek.yaml", "--namespace", "ns", "0" * 16)
    assert result.exit_code == errors.ConfigError.exit_code
    assert "/nonexistent/chrek.yaml" in result.stderr


def test_it_reads_its_paths_before_it_asks_anybody(run):
    result = run("--config", "/nonexistent", "--namespace", "ns", "0/1/2/3")
    assert result.exit_code == errors.InputError.exit_code
    assert "'0/1/2/3' is not a path in the store" in result.stderr


@pytest.mark.parametrize(
    "more",
    [(), ("--config=x", "--namespace=team"), ("--config=x", "0" * 16), ("--config=x", "--dry-run"),
     ("--config=x", "--timeout=3")],
)  # fmt: skip
def test_another_key_is_for_the_whole_store(run, more):
    result = run("--rekey", *more)
    assert result.exit_code == 2
    assert "--rekey needs --config, and is for a release's whole store" in result.stderr


def test_a_store_gets_another_key(run, settings, secret, tmp_path, monkeypatch):
    backend = fake_backend.Memory()
    monkeypatch.setattr(opening, "_backend", lambda _: backend)
    monkeypatch.setattr(rekey, "SETTLE_SECONDS", 0.0)
    wrapping = keys.read(secret)[0]
    backend.keys = storekeys.new_store_keys(wrapping)
    old = storekeys.unwrap(backend.keys, (wrapping,))
    sealer = seal.Sealed(old)
    with nodes.Node(backend, tmp_path / "n", sealer=sealer) as node:
        made = {
            space: nodes.make(node.store(space), {"criu/a.img": b"memory" + space.encode()})[0]
            for space in ("", "team")
        }
    path = settings(
        type="s3", s3={"uri": "s3://artifacts"}, cache={"path": str(tmp_path / "cache")},
        encryption={"keyPath": str(secret)},
    )  # fmt: skip
    result = run("--rekey", "--config", path)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{nodes.HASH}/{nodes.VARIANT}/{made['']} is sealed with the new key",
        f"team/{nodes.HASH}/{nodes.VARIANT}/{made['team']} is sealed with the new key",
        "the older key is gone",
    ]
    assert storekeys.unwrap(backend.keys, (wrapping,)).data_key != old.data_key
    assert not any(sealer.current(stored.data) for stored in backend.parts.values())


def test_a_volume_has_no_key(run, settings, tmp_path):
    result = run("--rekey", "--config", settings(pvc={"basePath": str(tmp_path)}))
    assert result.exit_code == errors.InputError.exit_code
    assert "chrek encrypts nothing on a volume" in result.stderr


def test_a_store_that_is_not_encrypted(run, settings, monkeypatch):
    monkeypatch.setattr(bucket, "Bucket", None)
    result = run("--rekey", "--config", settings(type="s3", s3={"uri": "s3://artifacts"}))
    assert result.exit_code == errors.StoreError.exit_code
    assert "the store is not encrypted" in result.stderr
