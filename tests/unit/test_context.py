"""restore-context.json: what is in it, who can read it, and that it is whole or not there."""

import json
import os
import stat
import subprocess
import sys

import msgspec
import pytest

from chrek import context, manifest


def captured():
    return manifest.Manifest(
        version=1,
        uuid="u-1",
        identityHash="0123456789abcdef",
        variant="aaaa",
        createdAt="2026-11-25T00:00:00Z",
        chrekVersion="0.1.0",
        rootPid=10001,
        stdio=["a", "b", "c"],
        volumes=[],
        source=manifest.Source(
            architecture="x86_64", kernel="6.18", hostname="old", addresses=["10.0.0.1"]
        ),
        files=[],
        steps={},
    )


@pytest.fixture
def process():
    variables = {b"HOSTNAME": b"new-pod", b"KEY": b"a=b", b"ODD": b"\xff", b"EMPTY": b""}
    argv = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(
        argv, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as made:
        made.stdout.readline()
        yield made.pid
        made.kill()


@pytest.fixture
def volume(tmp_path):
    fd = os.open(tmp_path, os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_the_environment_of_a_process(process):
    found = context.environment(process)
    assert found["KEY"] == "a=b"
    assert found["ODD"] == "\ufffd"
    assert found["EMPTY"] == ""


def test_each_restore_is_another_clone(process):
    pod = context.Pod(namespace="ns", name="new-pod", uid="uid")
    one, two = (context.describe(captured(), process, pod) for _ in range(2))
    assert one.cloneId != two.cloneId
    assert one.seed != two.seed
    assert len(bytes.fromhex(one.seed)) == context.SEED_BYTES
    assert (one.hostname, one.pod.name, one.artifact) == ("new-pod", "new-pod", "u-1")
    assert one.env["HOSTNAME"] == "new-pod"


def test_the_file_is_its_users_alone_and_replaced_whole(process, volume, tmp_path):
    for number in range(2):
        told = context.describe(captured(), process, context.Pod(name=str(number)))
        context.put(volume, told, os.getuid(), os.getgid())
        path = tmp_path / context.NAME
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
        assert json.loads(path.read_bytes())["pod"]["name"] == str(number)
        assert msgspec.json.decode(path.read_bytes(), type=context.Context) == told
        assert os.listdir(tmp_path) == [context.NAME], "nothing half is left"


def test_a_link_in_its_place_leads_nowhere(process, volume, tmp_path):
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / context.NAME).symlink_to(target)
    told = context.describe(captured(), process, context.Pod())
    context.put(volume, told, os.getuid(), os.getgid())
    assert target.read_text() == "kept"
    assert not (tmp_path / context.NAME).is_symlink()


def test_removed_also_where_there_is_none(volume, tmp_path):
    (tmp_path / context.NAME).touch()
    for _ in range(2):
        context.remove(volume)
        assert os.listdir(tmp_path) == []
