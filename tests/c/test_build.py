"""The programs as files: size, linkage, options, and what the compiler's analyzer says."""

from __future__ import annotations

import pathlib
import re
import shutil
import stat
import subprocess

import pytest

SOURCES = pathlib.Path(__file__).resolve().parents[2] / "src" / "c"


def run(*arguments: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["chrek-init", "chrek-enter"])
def test_small_and_static(release: pathlib.Path, name: str) -> None:
    program = release / name
    assert program.stat().st_size <= 100_000
    # A static program names no interpreter (PT_INTERP is 3) in its program headers.
    header = program.read_bytes()
    offset = int.from_bytes(header[32:40], "little")
    size = int.from_bytes(header[54:56], "little")
    count = int.from_bytes(header[56:58], "little")
    types = [header[offset + i * size] for i in range(count)]
    assert 1 in types
    assert 3 not in types
    assert 2 not in types, "has a dynamic section"


def test_builds_with_plain_gcc(tmp_path: pathlib.Path) -> None:
    done = run("make", "-s", "-C", SOURCES, f"OUT={tmp_path}", "CC=gcc")
    assert done.returncode == 0, done.stderr
    assert run(tmp_path / "chrek-init", "--version").returncode == 0


@pytest.mark.parametrize("source", sorted(path.name for path in SOURCES.glob("*.c")))
def test_analyzer_is_silent(source: str) -> None:
    if not shutil.which("gcc"):
        pytest.skip("no gcc")
    flags = "-std=c11 -D_GNU_SOURCE -Os -Wall -Wextra -Wshadow -Wconversion -Werror -fanalyzer"
    version = '-DCHREK_VERSION="0"'
    done = run("gcc", *flags.split(), version, "-c", "-o", "/dev/null", SOURCES / source)
    assert done.stderr == ""
    assert done.returncode == 0


def test_version_is_the_projects(release: pathlib.Path, root: pathlib.Path) -> None:
    package = (root / "src/chrek/__init__.py").read_text()
    found = re.search(r'__version__ = "(.+)"', package)
    assert found
    done = run(release / "chrek-init", "--version")
    assert done.stdout == f"chrek-init {found[1]}\n"


def test_help(release: pathlib.Path) -> None:
    done = run(release / "chrek-init", "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for option in ("--wait", "--socket", "--source", "--tree", "--install", "--version"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No command was given"),
        (["--wait", "1", "--"], "No command was given"),
        (["--wait"], "This option needs a value: --wait"),
        (["--wait", "soon", "--", "true"], "--wait takes whole seconds from 0 to 86400, not soon"),
        (["--wait", "-1", "--", "true"], "not -1"),
        (["--wait", "1.5", "--", "true"], "not 1.5"),
        (["--wait", "99999999999999999999", "--", "true"], "--wait takes whole seconds"),
        (["--mask", "zz", "--tree", "--", "true"], "--mask takes 16 hexadecimal digits, not zz"),
        (["--nonsense", "--", "true"], "There is no option --nonsense"),
        (["--install"], "--install takes one path"),
        (["--install", "/a", "/b"], "--install takes one path"),
        (["--no\nline\x1b[31m", "x"], "There is no option --no?line?[31m"),
    ],
)
def test_usage(release: pathlib.Path, arguments: list[str], message: str) -> None:
    done = run(release / "chrek-init", *arguments)
    assert done.returncode == 64
    assert done.stdout == ""
    assert done.stderr.startswith("chrek: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_install_copies_itself(release: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = release / "chrek-init"
    target = tmp_path / "chrek-init"
    for _ in range(2):
        done = subprocess.run(["sh", "-c", f"umask 077; {program} --install {target}"], check=False)
        assert done.returncode == 0
        assert target.read_bytes() == program.read_bytes()
        assert stat.S_IMODE(target.stat().st_mode) == 0o755
        assert [path.name for path in tmp_path.iterdir()] == ["chrek-init"]


def test_install_replaces_a_running_copy(release: pathlib.Path, tmp_path: pathlib.Path) -> None:
    target = tmp_path / "chrek-init"
    assert run(release / "chrek-init", "--install", target).returncode == 0
    with subprocess.Popen([target, "--tree", "--", "cat"], stdin=subprocess.PIPE) as running:
        assert run(target, "--install", target).returncode == 0
        assert running.stdin
        running.stdin.close()
    assert running.returncode == 0


@pytest.mark.parametrize("kind", ["missing", "directory", "link"])
def test_install_elsewhere(release: pathlib.Path, tmp_path: pathlib.Path, kind: str) -> None:
    target = tmp_path / "there"
    if kind == "missing":
        target = tmp_path / "no" / "such"
    elif kind == "directory":
        target.mkdir()
    else:
        # A link that a previous container left is replaced, not written through.
        target.symlink_to(tmp_path / "victim")
        (tmp_path / "victim").write_text("mine")
    done = run(release / "chrek-init", "--install", target)
    if kind == "link":
        assert done.returncode == 0
        assert not target.is_symlink()
        assert (tmp_path / "victim").read_text() == "mine"
        return
    assert done.returncode == 1
    assert str(target) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] in ([], ["there"])
