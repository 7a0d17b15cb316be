"""`chrek copy`, `export` and `import` as a user meets them: files, output, exit codes, signals."""

import contextlib
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import tarfile
import time

import jsonschema
import pytest
import yaml
from click import testing

from chrek import cli, errors, manifest
from chrek import store as stores
from chrek.cli import progress, records, transfer_commands
from fakes import node as nodes
from fakes import registry as registries

HASH, VARIANT = nodes.HASH, nodes.VARIANT
OTHER = "fedcba9876543210"
FILES = {"criu/pages-1.img": os.urandom(200_000) + bytes(200_000), "files.data": b"text"}
SIZE = 400_004
AS_FROM_A_SHELL = (
    "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); from chrek.cli import main"
)
"""What runs the tests may ignore signals, and its children would then, too."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `chrek ...` in the test's directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    for name in ("b", "scratch"):
        (tmp_path / name).mkdir()

    def call(*arguments):
        return testing.CliRunner().invoke(cli.main, [str(one) for one in arguments])

    return call


@pytest.fixture
def start(run, tmp_path):
    """Starts `chrek ...` as a program."""
    started = []

    def call(*arguments, prelude="", **options):
        program = f"{prelude}{AS_FROM_A_SHELL}; main()"
        command = [sys.executable, "-c", program, *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=tmp_path, **(pipes | options)))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def made(tmp_path):
    """An artifact in the directory `a`: its path and digest."""
    uuid, digest = nodes.make(stores.Store(tmp_path / "a"), FILES)
    return f"{HASH}/{VARIANT}/{uuid}", digest


def contents(path, place):
    store = stores.Store(place)
    found = store.open(*path.split("/"), store.stored_digest(*path.split("/")))
    return nodes.contents(found.path)


def told(verb, path, total="400.0 kB"):
    """What a log has of an artifact."""
    return rf"{verb} {path}: {total}\n{path}: {total} in \d+\.\d s, \d+ MB/s\n"


def test_copy(run, made, tmp_path):
    path, digest = made
    for wanted in (HASH, f"{HASH}/{VARIANT}", path):
        target = tmp_path / f"to-{len(wanted)}"
        target.mkdir()
        result = run("copy", "./a", target, wanted)
        assert result.exit_code == 0, result.output
        assert re.fullmatch(told("copying", path), result.stderr)
        assert result.stdout == f"{path} {digest} {SIZE}\n"
        assert contents(path, target) == FILES
    again = run("copy", "./a", target, path, HASH)
    assert again.stdout == f"{path} {digest} {SIZE} already there\n", "and once only"


def test_copy_of_everything(run, tmp_path):
    paths = [
        (
            identity,
            VARIANT,
            nodes.make(stores.Store(tmp_path / "a"), FILES, identity_hash=identity)[0],
        )
        for identity in (OTHER, HASH, HASH)
    ]
    nodes.make(stores.Store(tmp_path / "a", "team"), FILES)
    result = run("copy", "./a", "./b", "--all")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "/".join(path) for path in sorted(paths)
    ]
    assert stores.Store(tmp_path / "b").artifacts() == sorted(paths)
    result = run("copy", "./a", "./b", "--all", "--from-namespace=team", "--to-namespace=of")
    assert result.exit_code == 0, result.output
    assert len(stores.Store(tmp_path / "b", "of").artifacts()) == 1


def test_a_bad_artifact_does_not_keep_others(run, tmp_path):
    store = stores.Store(tmp_path / "a")
    paths = sorted((HASH, VARIANT, nodes.make(store, FILES)[0]) for _ in range(3))
    tmp_path.joinpath("a", *paths[1], "files.data").write_bytes(b"tex!")
    result = run("copy", "./a", "./b", "--all")
    assert result.exit_code == errors.ArtifactError.exit_code
    assert stores.Store(tmp_path / "b").artifacts() == [paths[0], paths[2]]
    assert len(result.stdout.splitlines()) == 2
    assert "error: files.data: the bytes from 0 on are not those" in result.stderr
    assert f"error: 1 of 3 artifacts were not copied: {'/'.join(paths[1])}" in result.stderr


def test_over_a_registry_and_back(run, made, tmp_path):
    path, digest = made
    with registries.Registry() as registry:
        place = f"oci://{registry.host}/checkpoints"
        result = run("copy", "./a", place, HASH, "--to-plain-http")
        assert (result.exit_code, result.stdout) == (0, f"{path} {digest} {SIZE}\n"), result.output
        result = run("copy", "./a", place, HASH, "--to-plain-http")
        assert result.stdout == f"{path} {digest} {SIZE} already there\n"
        result = run("copy", place, "./b", "--all", "--from-plain-http")
        assert (result.exit_code, result.stdout) == (0, f"{path} {digest} {SIZE}\n"), result.output
        result = run("export", place, HASH, "x.tar.zst", "--plain-http")
        assert (result.exit_code, result.stdout) == (0, f"{path} {digest} {SIZE}\n"), result.output
        result = run("import", "x.tar.zst", place, "--plain-http", "--namespace=team")
        assert (result.exit_code, result.stdout) == (0, f"{path} {digest} {SIZE}\n"), result.output
    assert contents(path, tmp_path / "b") == FILES
    assert list((tmp_path / "scratch").iterdir()) == []


def test_export_and_import(run, made, tmp_path):
    path, digest = made
    for name in ("x.tar", "x.tar.zst"):
        result = run("export", "./a", path, name)
        assert (result.exit_code, result.stdout) == (0, f"{path} {digest} {SIZE}\n")
        assert re.fullmatch(told("writing", path), result.stderr)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, "it may hold secrets"
        (tmp_path / f"from-{name}").mkdir()
        result = run("import", name, f"./from-{name}", "--digest", digest)
        assert (result.exit_code, result.stdout) == (0, f"{path} {digest} {SIZE}\n")
        assert re.fullmatch(told("reading", name), result.stderr)
        assert contents(path, tmp_path / f"from-{name}") == FILES
        result = run("import", name, f"./from-{name}")
        assert result.output == f"{path} {digest} {SIZE} already there\n"
    assert tarfile.is_tarfile(tmp_path / "x.tar")
    assert (tmp_path / "x.tar.zst").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    assert (tmp_path / "x.tar.zst").stat().st_size < (tmp_path / "x.tar").stat().st_size
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["x.tar", "x.tar.zst"]


def test_import_into_another_namespace(run, made, tmp_path):
    path, _ = made
    run("export", "./a", path, "x.tar")
    assert run("import", "x.tar", "./b", "--namespace=team-b").exit_code == 0
    assert (tmp_path / "b/ns/team-b" / path / manifest.NAME).exists()


def test_an_export_that_fails_leaves_what_was_there(run, made, tmp_path):
    path, _ = made
    (tmp_path / "x.tar").write_text("before")
    (tmp_path / "a" / path / "files.data").write_bytes(b"tex!")
    result = run("export", "./a", path, "x.tar")
    assert result.exit_code == errors.ArtifactError.exit_code
    assert (tmp_path / "x.tar").read_text() == "before"
    assert not list(tmp_path.glob(".x.tar*"))


def test_an_export_of_several_is_refused(run, made, tmp_path):
    other, _ = nodes.make(stores.Store(tmp_path / "a"), FILES)
    result = run("export", "./a", HASH, "x.tar")
    assert result.exit_code == errors.InputError.exit_code
    assert f"error: {HASH} is 2 artifacts: " in result.stderr
    assert made[0] in result.stderr
    assert other in result.stderr
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["copy", "./a", "./b"], 2, "Give either paths or --all"),
        (["copy", "./a", "./b", HASH, "--all"], 2, "Give either paths or --all"),
        (["copy", "./a"], 2, "Missing argument 'TO'"),
        (["export", "./a", HASH], 2, "Missing argument 'FILE'"),
        (["import", "x.tar"], 2, "Missing argument 'STORE'"),
        (["copy", "./a", "s3://b/x", "--all", "--scratch=absent"], 4, "absent: No such file"),
        (["copy", "./a", "./b", "--all", "--to-key=absent"], 2, "'absent' does not exist"),
        (["copy", "a", "./b", "--all"], 4, "'a' is no store"),
        (["copy", "./a", "s3://", "--all"], 5, "storage.s3.uri 's3://'"),
        (["copy", "./a", "./b", "x"], 4, "'x' is not a name in the store"),
        (["copy", "./absent", "./b", "--all"], 24, "absent: No such file or directory"),
        (["copy", "./a", "./b", OTHER], 20, f"no artifact {OTHER} in a/{OTHER}"),
        (["copy", "./a", "./b", f"{HASH}/aaaa/abc"], 20, "no artifact at a/"),
        (
            ["copy", "./a", "./b", "--all", "--to-plain-http"],
            4,
            "--to-plain-http: a directory needs",
        ),
        (["export", "./a", HASH, "absent/x.tar"], 4, "absent/x.tar: cannot be written: No such"),
        (["export", "./a", HASH, "a"], 4, "a: cannot be written: Is a directory"),
        (["export", "store", HASH, "x.tar", "--config=absent"], 5, "absent: "),
        (["import", "absent.tar", "./b"], 4, "absent.tar: cannot be read: No such file"),
        (["import", "a", "./b"], 4, "a: cannot be read: Is a directory"),
        (["import", "text", "./b"], 20, "text: a header is damaged"),
        (["import", "good.tar", "./b", "--digest=sha256:00"], 20, "sha256:00 was asked for"),
        (["import", "good.tar", "./text/b"], 24, "Not a directory"),
        (["import", "good.tar", "./absent"], 24, "absent/"),
        (["import", "good.tar", "./b", "--namespace=../x"], 4, "'../x' is not a name in the store"),
    ],
)
def test_what_is_refused(run, made, tmp_path, arguments, code, message):
    (tmp_path / "text").write_text("no tar\n" * 200)
    run("export", "./a", HASH, "good.tar")
    result = run(*arguments)
    assert message in result.stderr
    assert result.exit_code == code
    assert "Traceback" not in result.output
    assert not list((tmp_path / "b").iterdir())


def test_the_releases_own_store(run, made, tmp_path, monkeypatch):
    path, digest = made
    (tmp_path / "agent.yaml").write_text(
        "{apiVersion: chrek.nvidia.com/v1alpha1, kind: AgentConfig, release: team-chrek, "
        f"watchNamespaces: [team], storage: {{pvc: {{basePath: {tmp_path}/a}}}}}}"
    )
    monkeypatch.setenv("POD_NAMESPACE", "team")
    options = ["--config=agent.yaml", "--from-namespace=team"]
    result = run("copy", "store", "./b", "--all", *options)
    assert result.stdout == f"{path} {digest} {SIZE}\n"


def test_a_pipe(start, made, tmp_path):
    path, digest = made
    out = start("export", "./a", HASH, "-", stdin=None)
    back = start("import", "-", "./b", stdin=out.stdout)
    out.stdout.close()
    stdout, stderr = back.communicate()
    assert (back.returncode, stdout.decode()) == (0, f"{path} {digest} {SIZE}\n")
    assert re.fullmatch(told("reading", "standard input"), stderr.decode())
    assert out.wait() == 0
    lines = told("writing", path) + f"{path} {digest} {SIZE}\n"
    assert re.fullmatch(lines, out.stderr.read().decode())
    assert contents(path, tmp_path / "b") == FILES


def test_a_pipe_into_a_store_that_has_it(run, start, made, tmp_path):
    """The writer's end of a pipeline does not fail for want of a reader."""
    path, digest = made
    run("export", "./a", path, "x.tar")
    back = start("import", "-", "./a")
    back.stdin.write((tmp_path / "x.tar").read_bytes() + bytes(500_000))
    stdout, _ = back.communicate()
    assert (back.returncode, stdout.decode()) == (0, f"{path} {digest} {SIZE} already there\n")


@pytest.mark.parametrize("count", [0, 1000])
def test_a_reader_that_goes_away(start, made, tmp_path, count):
    """Before a small tar, or in the middle of a large one."""
    small, _ = nodes.make(stores.Store(tmp_path / "c"), {"files.data": b"text"})
    wanted = ("./a", HASH) if count else ("./c", f"{HASH}/{VARIANT}/{small}")
    process = start("export", *wanted, "-")
    process.stdout.read(count)
    process.stdout.close()
    assert process.wait() == errors.InputError.exit_code
    said = process.stderr.read().decode()
    assert "\nerror: standard output: cannot be written: Broken pipe\n" in said
    assert "Exception" not in said


def test_a_pipe_with_a_name_stays_one(run, tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    fd = os.open(tmp_path / "x.tar", os.O_RDWR)
    try:
        os.set_blocking(fd, False)
        small, _ = nodes.make(stores.Store(tmp_path / "c"), {"files.data": b"text"})
        result = run("export", "./c", f"{HASH}/{VARIANT}/{small}", "x.tar")
        assert result.exit_code == 0, result.output
        assert os.read(fd, 13) == manifest.NAME.encode()
    finally:
        os.close(fd)
    assert stat.S_ISFIFO((tmp_path / "x.tar").stat().st_mode)


def on_a_terminal(start, *arguments, **options):
    """What `chrek ...` says when its stderr is a terminal."""
    mine, theirs = pty.openpty()
    process = start(*arguments, **{"stderr": theirs, **options})
    os.close(theirs)
    said = rest(mine)
    return process.wait(), said.decode()


def rest(terminal):
    """What is said on it until nobody has its other end any more; it is closed then."""
    said = b""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            said += data
    os.close(terminal)
    return said


def test_the_rate_is_told_to_a_person(start, made):
    code, said = on_a_terminal(start, "copy", "./a", "./b", "--all")
    assert code == 0
    summary = r"1 of 1 moved: 400\.0 kB in \d+\.\d s, \d+ MB/s\r\n"
    assert re.search(f"{summary}$", said)
    assert f"copying {HASH}/" in said
    assert "400.0/400.0 kB" in said
    code, said = on_a_terminal(start, "copy", "./a", "./b", "--all")
    assert "0 of 1 moved: 0.0 kB" in said
    code, said = on_a_terminal(start, "export", "./a", HASH, "x.tar", "-ojson")
    assert f"writing {HASH}/" in said
    assert "moved" not in said, "the data says it"


def test_a_tar_is_not_for_a_terminal(start, made):
    mine, theirs = pty.openpty()
    process = start("export", "./a", HASH, "-", stdout=theirs)
    os.close(theirs)
    assert process.wait() == errors.InputError.exit_code
    assert b"standard output is a terminal" in process.stderr.read()
    os.close(mine)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_import_that_is_told_to_end_leaves_nothing(run, start, made, tmp_path, number):
    path, _ = made
    run("export", "./a", path, "x.tar")
    process = start("import", "-", "./b")
    process.stdin.write((tmp_path / "x.tar").read_bytes()[:300_000])
    process.stdin.flush()
    deadline = time.monotonic() + 20
    while not (tmp_path / "b" / path / "criu/pages-1.img").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert not list((tmp_path / "b").iterdir())
    assert b"Traceback" not in process.stderr.read()


def test_ctrl_c_on_a_terminal(run, start, made, tmp_path):
    """It is the terminal that sends the signal; afterwards its cursor is back."""
    path, _ = made
    run("export", "./a", path, "x.tar")
    os.mkfifo(tmp_path / "y.tar")
    mine, theirs = pty.openpty()
    owned = "import fcntl, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); "
    process = start(
        *("import", "y.tar", "./b"),
        prelude=owned,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    with (tmp_path / "y.tar").open("wb") as stream:
        stream.write((tmp_path / "x.tar").read_bytes()[:-1000])
        stream.flush()
        said = b""
        while b"reading y.tar" not in said:
            said += os.read(mine, 4096)
        os.write(mine, b"\x03")
        assert process.wait(20) == 128 + signal.SIGINT
    said += rest(mine)
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")
    assert b"Traceback" not in said
    assert not list((tmp_path / "b").iterdir())


def test_an_export_that_is_told_to_end_leaves_nothing(run, made, tmp_path, monkeypatch):
    def told(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "fsync", told)
    result = run("export", "./a", made[0], "x.tar")
    assert result.exit_code == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("*x.tar*"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_is_ignored_stays_so(run, made, tmp_path, monkeypatch):
    """As below nohup."""
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (os.kill(os.getpid(), signal.SIGHUP), real(fd)))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = run("export", "./a", made[0], "x.tar")
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "x.tar").exists()


def data(result, command):
    """What a command printed as JSON, of which nobody is told."""
    document = json.loads(result.stdout)
    jsonschema.validate(document, records.schema(command))
    return document


def test_data(run, made, tmp_path):
    path, digest = made
    for command, words, already in (
        ("copy", ["./a", "./b", HASH], False),
        ("copy", ["./a", "./b", HASH], True),
        ("export", ["./a", HASH, "x.tar"], False),
        ("import", ["x.tar", "./b"], True),
    ):
        result = run(command, *words, "-o", "json")
        assert result.exit_code == 0, result.output
        found = data(result, command)
        assert found["failed"] == []
        (one,) = found["artifacts"]
        assert (one.pop("seconds") >= 0, one.pop("bytesPerSecond") > 0) == (True, not already)
        assert one == {
            **{"path": path, "digest": digest, "bytes": SIZE, "already": already},
            **dict(zip(("hash", "variant", "uuid"), path.split("/"), strict=True)),
        }
        assert run(command, *words, "-o", "name").stdout == f"{path}\n"
        assert yaml.safe_load(run(command, *words, "-o", "yaml").stdout)["artifacts"]


def test_data_of_what_was_not_copied(run, made, tmp_path):
    path, _ = made
    other, _ = nodes.make(stores.Store(tmp_path / "a"), FILES, identity_hash=OTHER)
    tmp_path.joinpath("a", path, "files.data").write_bytes(b"tex!")
    result = run("copy", "./a", "./b", "--all", "-o", "json")
    assert result.exit_code == errors.ArtifactError.exit_code
    found = data(result, "copy")
    assert [one["uuid"] for one in found["artifacts"]] == [other]
    assert [one["path"] for one in found["failed"]] == [path]
    assert "files.data: the bytes from 0 on" in found["failed"][0]["error"]
    result = run("copy", "./a", "./b", path, "-o", "json")
    assert result.exit_code == errors.ArtifactError.exit_code
    found = data(result, "copy")
    assert (found["artifacts"], len(found["failed"])) == ([], 1)


def test_data_of_nothing(run, tmp_path):
    (tmp_path / "a").mkdir()
    assert data(run("copy", "./a", "./b", "--all", "-ojson"), "copy") == {
        "artifacts": [],
        "failed": [],
    }


def test_data_needs_a_file(run, made):
    result = run("export", "./a", HASH, "-", "-o", "json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--output needs a FILE" in result.stderr


def test_what_comes_from_a_server_and_goes_to_it_is_told(run, made, monkeypatch):
    steps = []
    real = progress.Lines.moved
    monkeypatch.setattr(
        progress.Lines, "moved", lambda self, *how: (steps.append(how), real(self, *how))
    )
    with registries.Registry() as registry:
        place = f"oci://{registry.host}/checkpoints"
        for words, wanted in (
            (["copy", "./a", place, HASH, "--to-plain-http"], {"files", "up"}),
            (["copy", place, "./b", HASH, "--from-plain-http"], {"down", "files"}),
            (["export", place, HASH, "x.tar", "--plain-http"], {"down", "files"}),
            (["import", "x.tar", place, "--plain-http", "--namespace=x"], {"files", "up"}),
            (["verify", place, HASH, "--plain-http"], {"down", "files"}),
        ):
            steps.clear()
            assert run(*words).exit_code == 0
            sums = {step: sum(n for one, n in steps if one == step) for step in wanted}
            assert (sums, len({step for step, _ in steps})) == (dict.fromkeys(wanted, SIZE), 2)


def test_commands_are_where_the_group_looks():
    for name, command in (
        ("copy", transfer_commands.copy),
        ("export", transfer_commands.export),
        ("import", transfer_commands.import_),
    ):
        assert cli.main.get_command(None, name) is command
