"""`chrek verify` as a user meets it."""

import json
import os
import pty
import re
import subprocess
import sys

import jsonschema
import pytest
from click import testing

from chrek import cli, errors
from chrek import store as stores
from chrek.cli import progress, records, verify_command
from fakes import node as nodes
from fakes import registry as registries

HASH, VARIANT = nodes.HASH, nodes.VARIANT
OTHER = "fedcba9876543210"
FILES = {"criu/pages-1.img": os.urandom(200_000) + bytes(5 << 20), "files.data": b"text"}
SIZE = sum(map(len, FILES.values()))
CORRUPT = errors.ArtifactError.exit_code


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `chrek verify ...` in the test's directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def call(*arguments):
        arguments = ["verify", *map(str, arguments)]
        return testing.CliRunner().invoke(cli.main, arguments)

    return call


@pytest.fixture
def made(tmp_path):
    """An artifact in the directory `a`: its path and digest."""
    uuid, digest = nodes.make(stores.Store(tmp_path / "a"), FILES)
    return f"{HASH}/{VARIANT}/{uuid}", digest


def damage(place, path, name="criu/pages-1.img", at=100):
    with open(place / path / name, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_good_one(run, made, parts):
    path, digest = made
    result = run("./a", "/".join(path.split("/")[:parts]))
    assert result.exit_code == 0, result.output
    lines = rf"comparing {path}: 5\.4 MB\n{path}: 5\.4 MB in \d+\.\d s, \d+ MB/s\n"
    assert re.fullmatch(lines, result.stderr)
    assert re.fullmatch(rf"{path} {digest} {SIZE} ok \d+\.\d s \d+ MB/s\n", result.stdout)


@pytest.mark.parametrize("at", [100, 5 << 20])
def test_a_damaged_one(run, made, tmp_path, at):
    path, digest = made
    damage(tmp_path / "a", path, at=at)
    result = run("./a", HASH)
    assert result.exit_code == CORRUPT
    start = at // (4 << 20) * (4 << 20)
    assert result.stdout.startswith(
        f"{path} {digest} {SIZE} BAD criu/pages-1.img: the bytes from {start} on are not those"
    )
    told = f"comparing {path}: 5.4 MB\nerror: 1 of 1 artifacts cannot be restored: {path}\n"
    assert result.stderr.startswith(told), "and not that it was read in so many seconds"


def test_a_bad_one_keeps_nobody_from_reading_the_others(run, made, tmp_path):
    path, _ = made
    other, _ = nodes.make(stores.Store(tmp_path / "a"), FILES, identity_hash=OTHER)
    os.unlink(tmp_path / "a" / path / "files.data")
    result = run("./a", "--all")
    assert result.exit_code == CORRUPT
    bad, good = result.stdout.splitlines()
    assert " BAD no artifact at " in bad
    assert good.startswith(f"{OTHER}/{VARIANT}/{other} ")
    assert " ok " in good
    assert "1 of 2 artifacts" in result.stderr
    assert run("./a", OTHER).exit_code == 0


def test_a_file_of_another_size(run, made, tmp_path):
    path, _ = made
    with open(tmp_path / "a" / path / "files.data", "ab") as file:
        file.write(b"more")
    assert "files.data: 8 bytes instead of 4" in run("./a", HASH).stdout


def test_a_manifest_that_is_none(run, made, tmp_path):
    path, _ = made
    (tmp_path / "a" / path / "manifest.json").write_text("{}")
    result = run("./a", path)
    assert result.exit_code == CORRUPT
    assert " 0 BAD manifest.json: " in result.stdout


def test_one_that_is_not_there(run, made):
    result = run("./a", OTHER)
    assert result.exit_code == CORRUPT
    assert f"error: no artifact {OTHER}" in result.stderr
    result = run("./a", f"{OTHER}/{VARIANT}/{'1' * 8}")
    assert result.exit_code == CORRUPT
    assert f"{OTHER}/{VARIANT}/{'1' * 8} - 0 BAD no artifact at" in result.stdout


def test_an_empty_store(run, tmp_path):
    (tmp_path / "b").mkdir()
    result = run("./b", "--all")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "./b has no artifacts" in result.stderr
    assert json.loads(run("./b", "--all", "-ojson").stdout) == {"artifacts": []}


def test_another_namespace(run, tmp_path):
    nodes.make(stores.Store(tmp_path / "a", "team"), FILES)
    assert run("./a", HASH).exit_code == CORRUPT
    assert run("./a", HASH, "--namespace", "team").exit_code == 0


def test_data(run, made, tmp_path):
    path, digest = made
    document = json.loads(run("./a", HASH, "-o", "json").stdout)
    jsonschema.validate(document, records.schema("verify"))
    (one,) = document["artifacts"]
    assert (one["path"], one["digest"], one["bytes"], one["ok"]) == (path, digest, SIZE, True)
    assert run("./a", HASH, "-o", "name").stdout == f"{path}\n"
    damage(tmp_path / "a", path)
    result = run("./a", HASH, "-o", "json")
    assert result.exit_code == CORRUPT
    document = json.loads(result.stdout)
    jsonschema.validate(document, records.schema("verify"))
    assert not document["artifacts"][0]["ok"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", HASH], "'nowhere' is no store"),
        (["./a", "../x"], "is not a name in the store"),
        (["./a", HASH, "--plain-http"], "--plain-http: a directory needs none"),
    ],
)
def test_what_cannot_be_used(run, made, arguments, message):
    result = run(*arguments)
    assert result.exit_code == errors.InputError.exit_code
    assert message in result.stderr


def test_a_store_that_is_not_there(run):
    result = run("./a", "--all")
    assert result.exit_code in (0, errors.StoreError.exit_code)


def test_a_registry(run, made, tmp_path):
    path, digest = made
    with registries.Registry() as registry:
        place = f"oci://{registry.host}/chrek"
        copied = testing.CliRunner().invoke(
            cli.main, ["copy", "./a", place, HASH, "--to-plain-http"]
        )
        assert copied.exit_code == 0, copied.output
        result = run(place, HASH, "--plain-http")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"{path} {digest} {SIZE} ok ")
    assert not list(tmp_path.glob("chrek-*")), "the scratch directory is gone"


def test_progress_on_a_terminal(run, made, tmp_path):
    """Bytes and rate on stderr, which is a terminal; the line on stdout, which is none."""
    path, _ = made
    parent, child = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", "from chrek.cli import main; main()", "verify", "./a", HASH],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=child,
        check=True,
    )
    os.close(child)
    text = os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert done.stdout.startswith(path.encode())
    assert HASH in text
    assert f"comparing {HASH}" in text
    assert "5.4/5.4 MB" in text


def test_progress_counts_every_byte(made, tmp_path, monkeypatch):
    path, _ = made
    told = []
    watch = progress.Lines({"files": "comparing"}, say=lambda _: None)
    monkeypatch.setattr(watch, "moved", lambda *how: told.append(how))
    found = verify_command.verified(stores.Store(tmp_path / "a"), tuple(path.split("/")), watch)
    assert found.ok
    assert sum(count for _, count in told) == SIZE
    assert {step for step, _ in told} == {"files"}
