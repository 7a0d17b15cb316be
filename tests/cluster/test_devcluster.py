"""The small parts: DNS answers, waiting, running programs, stamps, cgroups, the lock, the help."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from devcluster import (
    addresses,
    cache,
    cgroups,
    cluster,
    commands,
    dns,
    errors,
    nodes,
    steps,
    tools,
)


def record(name: bytes, kind: int, data: bytes) -> bytes:
    return name + struct.pack(">HHIH", kind, 1, 5, len(data)) + data


QUESTION = b"\1a\0\0\1\0\1"


def answer(number: int, *records: bytes) -> bytes:
    header = struct.pack(">HHHHHH", number, 0x8180, 1, len(records), 0, 0)
    return header + QUESTION + b"".join(records)


@pytest.mark.parametrize("name", [b"\xc0\x0c", b"\1a\0"])
def test_addresses_of_a_dns_answer(name: bytes) -> None:
    text = answer(7, record(name, 5, b"\1b\0"), record(name, 1, bytes([10, 96, 0, 1])))
    assert dns.parse(text, 7, 12 + len(QUESTION)) == ["10.96.0.1"]


@pytest.mark.parametrize("text", [b"", answer(8, record(b"\xc0\x0c", 1, bytes(4))), answer(7)])
def test_dns_answer_that_says_nothing(text: bytes) -> None:
    assert dns.parse(text, 7, 12 + len(QUESTION)) == []


def test_waiting_ends_with_an_explanation() -> None:
    with pytest.raises(errors.ClusterError, match="the moon is full: not so after 0 s\nit is not"):
        steps.wait_until(
            lambda: False, "the moon is full", timeout_seconds=0, explain=lambda: "it is not"
        )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sh", "-c", "echo said; echo why >&2; exit 3"], "status 3: sh .*\nsaid\n\nwhy"),
        (["sh", "-c", "kill -9 $$"], "signal 9: sh"),
        (["no-such-program"], "status 127: no-such-program"),
    ],
)
def test_a_failed_program_is_shown_with_what_it_said(argv: list[str], message: str) -> None:
    with pytest.raises(errors.CommandError, match=message):
        commands.run(argv)


def test_a_failed_program_with_a_log_shows_the_logs_end(tmp_path: Path) -> None:
    with pytest.raises(errors.CommandError, match="line 99"):
        commands.run(["sh", "-c", "seq -f 'line %g' 99; exit 1"], log=tmp_path / "deep" / "log")


def test_a_group_of_tools_is_current_until_its_flags_change(tmp_path: Path) -> None:
    one = tools.Group("one", "pause", ("chrek/tools/pause",))
    other = tools.Group("one", "pause", ("chrek/tools/pause",), {"main.x": "1"})
    assert one.digest() == tools.Group("one", "pause", ("chrek/tools/pause",)).digest()
    assert one.digest() != other.digest()


GROUPS = (*tools.FOR_CHARTS, *tools.FOR_CLUSTER, *tools.FOR_STORES)


@pytest.mark.parametrize("group", GROUPS, ids=lambda one: one.name)
def test_each_group_is_pinned(group: tools.Group) -> None:
    folder = tools.SOURCES / group.folder
    assert (folder / "go.mod").exists()
    assert group.folder == "pause" or (folder / "go.sum").exists()


def test_cgroup_hierarchies_of_both_versions(tmp_path: Path) -> None:
    for name in ("cpu", "memory", "unified"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpuacct").symlink_to("cpu")
    assert [path.name for path in cgroups.hierarchies(tmp_path)] == ["cpu", "memory", "unified"]
    (tmp_path / "cgroup.controllers").touch()
    assert cgroups.hierarchies(tmp_path) == [tmp_path]


def test_a_command_waits_for_the_one_that_holds_the_lock(tmp_path: Path) -> None:
    one = cluster.Cluster.of(cache.Cache(tmp_path))
    order: list[str] = []
    with one.locked():
        second = threading.Thread(target=lambda: _enter(cluster.Cluster.of(one.where), order))
        second.start()
        second.join(timeout=0.7)
        order.append("first")
    second.join(timeout=10)
    assert order == ["first", "second"]


def _enter(one: cluster.Cluster, order: list[str]) -> None:
    with one.locked():
        order.append("second")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"CHREK_CACHE": "/a/b"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/chrek"),
        ({"HOME": "/h"}, "/h/.cache/chrek"),
    ],
)
def test_cache_folder(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str
) -> None:
    for name in ("CHREK_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache.Cache.from_environment().root == Path(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kubeconfig"], "error: the cluster is not up\n\\(scripts/cluster up\\)"),
        (["start", "n0"], "error: 'n0' is not the name of a node"),
        (["stop", "n7"], "error: node n7 does not run"),
        (["exec", "n7", "true"], "error: node n7 does not run"),
        (["exec", "n7"], "error: no command to run"),
        (["load", "nowhere.tar"], "error: the cluster is not up"),
        (["up", "--nodes", "99"], "'99' is not between 1 and 30"),
    ],
)
def test_errors_name_the_value_and_what_to_do(
    command: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    environment = {"CHREK_CACHE": f"{tmp_path}", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    done = subprocess.run(
        [sys.executable, command, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert re.search(message, done.stderr), done.stderr


@pytest.mark.parametrize(
    ("offsets", "seconds"),
    [("", 0), ("n2=259200", 259200), ("n1=5,n2=-7", -7), ("n1=5", 0), ("n2=1,", 1)],
)
def test_boot_times_of_nodes(offsets: str, seconds: int) -> None:
    assert nodes.boot_seconds(addresses.Node.parse("n2"), offsets) == seconds


@pytest.mark.parametrize("offsets", ["n2", "n2=soon", "two=3"])
def test_boot_times_that_are_none(offsets: str) -> None:
    with pytest.raises(errors.ClusterError, match="not"):
        nodes.boot_seconds(addresses.Node.parse("n2"), offsets)
