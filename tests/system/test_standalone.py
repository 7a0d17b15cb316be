"""`chrek run`, `dump` and `restore` as a person at a machine without Kubernetes has them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from chrek import errors, manifest, procfs
from chrek import store as stores

pytestmark = pytest.mark.system
SERVER = pathlib.Path(__file__).with_name("standalone_server.py")
NAME = "counter"
CHREK = [sys.executable, "-c", "from chrek.cli import main; main()"]


class Program:
    """A `chrek run` or `chrek restore`, with what it writes."""

    def __init__(self, argv: list[str], **more: object) -> None:
        self.child = subprocess.Popen(  # type: ignore[call-overload]
            [*CHREK, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **more,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.child.stdout:
            self.output += line.decode(errors="replace")

    def wait_for(self, text: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert self._reader.is_alive(), self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.01)

    def wait(self, seconds: float = 20) -> int:
        code: int = self.child.wait(timeout=seconds)
        self._reader.join(timeout=5)
        return code


class Site:
    """Folders, and a port."""

    def __init__(self, path: pathlib.Path, file_folder: pathlib.Path) -> None:
        self.state = path / "state"
        self.store = path / "checkpoints"
        self.files = file_folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.programs: list[Program] = []
        self.environment = {**os.environ, "SERVER_SETTING": "a"}

    def run(self, *options: str, command: tuple[str, ...] = ()) -> Program:
        where = ["--state", str(self.state), "--store", str(self.store)]
        argv = command or (sys.executable, "-S", str(SERVER), str(self.port), str(self.files))
        return self.start("run", "--name", NAME, *where, *options, "--", *argv)

    def start(self, *argv: str) -> Program:
        made = Program([*argv], env=self.environment)
        self.programs.append(made)
        return made

    def chrek(self, *argv: str) -> subprocess.CompletedProcess[str]:
        line = [*CHREK, *argv, "--state", str(self.state)]
        return subprocess.run(
            line, capture_output=True, text=True, timeout=60, env=self.environment, check=False
        )

    def ask(self, text: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(text.encode() + b"\n")
            return connection.makefile().readline().strip()


def surroundings(site: Site) -> list[str]:
    """Mounts and processes of this machine that have to do with a test's folders."""
    folder = str(site.state.parent)
    points = [mount.mount_point for mount in procfs.mounts(os.getpid())]
    mounts = [point for point in points if point.startswith(folder)]
    found = []
    for entry in procfs.PROC.iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                text = (entry / "cmdline").read_bytes() + (entry / "mountinfo").read_bytes()
                if os.fsencode(site.state) in text or str(site.port).encode() in text:
                    found.append(f"process {entry.name}")
    return mounts + found


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("root only")
    files = tmp_path / "files"
    files.mkdir()
    made = Site(tmp_path, files)
    before = surroundings(made)
    try:
        yield made
    finally:
        for program in made.programs:
            program.child.kill()
            program.wait()
            program.child.stdin.close()
            program.child.stdout.close()
        deadline = time.monotonic() + 10
        while (after := surroundings(made)) != before and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        assert after == before


def test_a_program_is_stopped_and_goes_on(site: Site) -> None:
    begin = time.monotonic()
    first = site.run()
    first.wait_for("server ready")
    assert "chrek: Falling back to cold start: CheckpointNotFound: " in first.output
    assert site.ask("count").endswith(" 1")
    nonce = site.ask("count").split()[0]
    assert site.ask("write kept") == "ok"
    done = site.chrek("dump", NAME, "--stop")
    assert done.returncode == 0, done.stderr + first.output
    uuid, size, unit, seconds, _ = done.stdout.split()
    assert (int(size) > 1 << 20, unit, float(seconds) < 10) == (True, "bytes", True)
    assert first.wait() == 0, first.output
    assert f"chrek: Stopped: checkpoint {uuid} is complete" in first.output
    assert "serves on" not in first.output
    again = site.run()
    again.wait_for("chrek: Restored: ")
    assert site.ask("count") == f"{nonce} 3"
    assert site.ask("read") == "kept"
    assert not list(site.files.iterdir()), "what it changes is its own"
    assert site.ask("print hello") == "ok"
    again.wait_for("hello")
    assert time.monotonic() - begin < 15
    # It is a program like any other: it can be captured again, and its exit code is its own.
    assert site.chrek("dump", NAME).returncode == 0, again.output
    assert site.ask("count") == f"{nonce} 4"
    assert site.ask("exit 42") == ""
    assert again.wait() == 42
    third = site.start("restore", NAME, "--state", str(site.state))
    third.wait_for("chrek: Restored: ")
    assert site.ask("count") == f"{nonce} 4"
    third.child.send_signal(signal.SIGTERM)
    assert third.wait() == 128 + signal.SIGTERM


def test_a_mount_of_the_machine_may_go_meanwhile(site: Site) -> None:
    stick, models = site.files / "stick", site.files / "models"
    for folder in (stick, models):
        folder.mkdir()
        subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        (models / "weights").write_text("weights")
        script = f"exec 3< {models}/weights; echo ready; while :; do sleep 0.1; done"
        first = site.run(command=("/bin/sh", "-c", script))
        first.wait_for("ready")
        assert site.chrek("dump", NAME, "--stop").returncode == 0, first.output
        assert first.wait() == 0
        subprocess.run(["umount", stick], check=True)
        again = site.run(command=("/bin/sh", "-c", script))
        again.wait_for("chrek: Restored: ")
        again.child.terminate()
        again.wait()
        subprocess.run(["umount", models], check=True)
        third = site.run(command=("/bin/sh", "-c", script))
        third.wait_for(f"cold start: MountsDiffer: mounts: nothing is mounted at {models}")
        third.child.terminate()
        third.wait()
    finally:
        for folder in (stick, models):
            subprocess.run(["umount", "-q", folder], check=False)


def test_the_artifact_is_one_of_the_store(site: Site) -> None:
    program = site.run()
    program.wait_for("server ready")
    done = site.chrek("dump", NAME)
    store = stores.Store(site.store)
    (path,) = store.artifacts()
    assert path[2] == done.stdout.split()[0]
    described = store.open(*path, store.stored_digest(*path)).manifest
    assert described.volumes[0] == manifest.Volume(path="/", exclusive=True)
    assert "SERVER_SETTING" in described.source.environment
    assert "TERM" not in described.source.environment
    line = [*CHREK, "verify", str(site.store), "--all"]
    checked = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr


def test_streams_signals_and_volumes_of_a_cold_start(site: Site) -> None:
    script = f"echo $PWD; read line; echo got $line; echo there > {site.files}/made; exit 7"
    program = site.run("--volume", str(site.files), command=("/bin/sh", "-c", script))
    program.child.stdin.write(b"a line\n")
    program.child.stdin.flush()
    assert program.wait() == 7, program.output
    assert f"{os.getcwd()}\n" in program.output
    assert "got a line\n" in program.output
    assert (site.files / "made").read_text() == "there\n"
    trap = 'trap "echo asked; exit 5" TERM; echo set; echo; while :; do sleep 0.1; done'
    program = site.run(command=("/bin/sh", "-c", trap))
    program.wait_for("set\n")
    program.child.send_signal(signal.SIGTERM)
    assert program.wait() == 5
    assert "asked\n" in program.output
    assert site.run(command=("/nonexistent/program",)).wait() == 127


def test_why_a_start_is_cold(site: Site) -> None:
    program = site.run()
    program.wait_for("server ready")
    assert site.chrek("dump", NAME, "--stop").returncode == 0
    program.wait()
    site.environment["SERVER_SETTING"] = "b"
    program = site.run()
    program.wait_for("server ready")
    assert "Falling back to cold start: EnvironmentDiffers: " in program.output
    assert "SERVER_SETTING" in program.output
    program.child.terminate()
    program.wait()
    program = site.run(command=("/bin/echo", "other"))
    assert program.wait() == 0
    assert "Falling back to cold start: NoMatchingVariant: " in program.output


def test_a_port_that_is_taken(site: Site) -> None:
    program = site.run()
    program.wait_for("server ready")
    assert site.chrek("dump", NAME, "--stop").returncode == 0
    program.wait()
    with socket.create_server(("127.0.0.1", site.port)):
        done = site.chrek("restore", NAME)
        assert done.returncode == errors.CriuError.exit_code, done.stderr
        assert f"error: {NAME} was not restored: CriuFailed: " in done.stderr
        cold = site.run()
        assert cold.wait() == 1
        assert "chrek: Falling back to cold start: CriuFailed: " in cold.output
        assert "Address already in use" in cold.output


def damage(site: Site) -> None:
    (path,) = site.store.rglob("pages-1.img")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_costs_a_cold_start_that_can_be_captured(site: Site) -> None:
    program = site.run()
    program.wait_for("server ready")
    nonce = site.ask("count").split()[0]
    assert site.chrek("dump", NAME, "--stop").returncode == 0
    program.wait()
    damage(site)
    done = site.chrek("restore", NAME)
    assert done.returncode == errors.ArtifactError.exit_code
    assert "was not restored: ArtifactCorrupt: " in done.stderr
    program = site.run()
    program.wait_for("server ready")
    assert program.output.count("Falling back to cold start: ArtifactCorrupt: ") == 1
    assert not site.ask("count").startswith(nonce)
    assert site.chrek("dump", NAME).returncode == 0


@pytest.mark.parametrize("mode", ["--stop", "--leave-running"])
def test_a_dump_that_fails_costs_nothing(site: Site, mode: str) -> None:
    program = site.run()
    program.wait_for("server ready")
    nonce = site.ask("count").split()[0]
    assert site.ask("semaphore") == "ok"
    done = site.chrek("dump", NAME, mode)
    assert done.returncode == errors.UnsupportedError.exit_code
    assert "EFD_SEMAPHORE" in done.stderr
    program.wait_for("chrek: Checkpoint failed: Unsupported: ")
    assert site.ask("count") == f"{nonce} 2"
    assert not list(site.store.rglob(manifest.NAME))
    program.child.send_signal(signal.SIGTERM)
    assert program.wait() == 128 + signal.SIGTERM


STEPS = ("*-*-*-*", "inventory.img", "core-*.img", "pages-*.img")


def begun(site: Site, mode: str, step: str) -> subprocess.Popen[bytes]:
    """A `chrek dump` that has come so far."""
    line = [*CHREK, "dump", NAME, mode, "--state", str(site.state)]
    dump = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(site.store.rglob(step)):
        assert dump.poll() is None
    return dump


@pytest.mark.parametrize("step", STEPS)
def test_a_dump_goes_on_when_its_command_is_killed(site: Site, step: str) -> None:
    program = site.run()
    program.wait_for("server ready")
    nonce = site.ask("count").split()[0]
    dump = begun(site, "--leave-running", step)
    dump.kill()
    dump.wait()
    assert site.ask("count") == f"{nonce} 2"
    program.wait_for("chrek: Checkpoint complete; the worker serves on")
    assert list(site.store.rglob(manifest.NAME))


@pytest.mark.parametrize("mode", ["--stop", "--leave-running"])
def test_a_dump_whose_processes_are_killed_before_criu_begins(site: Site, mode: str) -> None:
    """Later it is CRIU that is killed, which can end a process: see docs/standalone.md."""
    program = site.run()
    program.wait_for("server ready")
    nonce = site.ask("count").split()[0]
    dump = begun(site, mode, STEPS[0])
    (worker,) = procfs.children(dump.pid)
    os.kill(worker, signal.SIGKILL)
    assert dump.wait() == errors.PeerError.exit_code
    program.wait_for("chrek: Checkpoint failed: AgentGone: chrek dump has ended early")
    assert site.ask("count") == f"{nonce} 2"
    assert site.chrek("dump", NAME, "--stop").returncode == 0
    assert program.wait() == 0
    site.run().wait_for("chrek: Restored: ")
    assert site.ask("count") == f"{nonce} 3"


def test_a_program_ends_with_chrek_run(site: Site) -> None:
    program = site.run()
    program.wait_for("server ready")
    program.child.kill()
    program.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            site.ask("count")
        except OSError:
            break
    else:
        pytest.fail("it runs on")


def test_a_name_is_used_once_and_only_of_what_runs(site: Site) -> None:
    program = site.run()
    program.wait_for("server ready")
    second = site.run()
    assert second.wait() == errors.InputError.exit_code
    assert f"{NAME} runs already" in second.output
    done = site.chrek("dump", "other")
    assert "no program was started as other" in done.stderr
    assert f"hint: known are {NAME}" in done.stderr
    program.child.terminate()
    program.wait()
    assert f"{NAME} does not run" in site.chrek("dump", NAME).stderr
    missing = site.chrek("restore", NAME)
    assert f"{NAME} was not restored: CheckpointNotFound: " in missing.stderr


def test_a_network_of_its_own(site: Site) -> None:
    with socket.create_server(("127.0.0.1", site.port)):
        program = site.run("--own-network")
        program.wait_for("server ready")
        assert site.chrek("dump", NAME, "--stop").returncode == 0
        program.wait()
        again = site.run("--own-network")
        again.wait_for("chrek: Restored: ")


@pytest.mark.parametrize("argv", [("run", "--", "true"), ("dump", "x"), ("restore", "x")])
def test_not_root(tmp_path: pathlib.Path, argv: tuple[str, ...]) -> None:
    code = (
        "import os, sys\nfrom chrek.cli import main, run_command, dump_command, restore_command\n"
        "from chrek.standalone import dumping\nos.setuid(65534)\nmain()"
    )
    line = [sys.executable, "-c", code, argv[0], "--state", str(tmp_path), *argv[1:]]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == errors.UnsupportedError.exit_code
    assert done.stderr == (
        "error: not root: namespaces, mounts and CRIU need it\n  hint: use sudo\n"
    )
