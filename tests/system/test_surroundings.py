"""What is around a worker: those that are connected with it, and what the kubelet mounts."""

from __future__ import annotations

import os
import pathlib
import subprocess
import time

import pytest

from chrek import store as stores
from conformance import sandboxed, workload
from showcase import sandbox

pytestmark = pytest.mark.system

HELD = """
import mmap, os
def setup():
    file = open("/etc/config/setting", "rb")
    os.chdir("/etc/config/..data")
    return file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
def check(state):
    file, mapped = state
    file.seek(0)
    return {
        "read": file.read().decode(),
        "mapped": mapped[:4].decode(),
        "near": open("setting").read(),
        "name": os.readlink(f"/proc/self/fd/{file.fileno()}"),
        "directory": os.getcwd(),
    }
"""
SERVER = """
import socket, threading
def setup():
    server = socket.create_server(("", 9200))
    held = []
    def serve():
        while True:
            one, _ = server.accept()
            held.append(one)
            one.sendall(b"hello")
    threading.Thread(target=serve, daemon=True).start()
    return held
def check(state):
    ends = []
    for one in state:
        try:
            one.getpeername()
            ends.append("connected")
        except OSError as error:
            ends.append(error.strerror)
    return {"ends": ends}
"""
CLIENT = """
import socket, sys, time
one = socket.create_connection((sys.argv[1], 9200), 10)
print(one.recv(5).decode(), flush=True)
one.settimeout(30)
try:
    print("end" if not one.recv(5) else "data", flush=True)
except ConnectionResetError:
    print("reset", flush=True)
"""


def mounted(folder: str, text: str) -> str:
    """As the kubelet mounts a ConfigMap: a folder, a link to it, and links to its files."""
    return (
        "mkdir -p etc/config; mount -t tmpfs config etc/config; cd etc/config;"
        f"mkdir {folder}; echo {text} >{folder}/setting; ln -s {folder} ..data;"
        "ln -s ..data/setting setting; cd ../..;"
        "mount --bind etc/config etc/config; mount -o remount,bind,ro etc/config"
    )


def test_files_of_a_config_map_are_the_new_pods(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {
        "source": ("..2026_11_24_08_00_00.1", "value"),
        "target": ("..2026_11_25_09_30_00.42", "value-of-another-length"),
    }

    def container(
        one: workload.Workload, path: pathlib.Path, name: str, *argv: str
    ) -> sandbox.Container:
        prepare = mounted(*folders[name])
        return sandbox.Container(path / name, name, *argv, user=65532, prepare=prepare)

    monkeypatch.setattr(sandboxed, "container", container)
    one = workload.Workload("held", HELD, workload.Options(), workload.equal)
    before, _, artifact = sandboxed.capture(one, tmp_path, stores.Store(tmp_path / "checkpoints"))
    assert before["name"] == f"/etc/config/{folders['source'][0]}/setting"
    with sandboxed.restoring(one, tmp_path, artifact) as target:
        after = sandboxed.check(target.pid)
    assert after["name"] == f"/etc/config/{folders['target'][0]}/setting"
    assert after["directory"] == f"/etc/config/{folders['target'][0]}"
    assert after["read"] == after["near"] == "value-of-another-length\n"
    assert after["mapped"] == "value"[:4]


def test_a_file_that_the_kubelet_replaced_while_it_was_open(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a token of a service account, every hour."""
    folders = ("..2026_11_24_08_00_00.1", "..2026_11_25_09_30_00.42")
    source = HELD.replace('os.chdir("/etc/config/..data")', 'os.chdir("/")')
    source = source.replace('open("setting")', 'open("/etc/config/setting")')
    answer = sandboxed.check
    # Deleted by whoever sees the volume, as the kubelet does; the container cannot.
    replace = (
        "mount -o remount,bind,rw {0}; cd {0}; mkdir ..next; echo newer >..next/setting;"
        "rm ..data; ln -s ..next ..data; rm -r {1}; mount -o remount,bind,ro {0}"
    )

    def replaced(pid: int) -> sandboxed.Object:
        if folders[0] in os.listdir(f"/proc/{pid}/root/etc/config"):
            argv = [
                "nsenter",
                "-t",
                str(pid),
                "-m",
                "sh",
                "-ec",
                replace.format("/etc/config", folders[0]),
            ]
            subprocess.run(argv, check=True)
        return answer(pid)

    def container(
        one: workload.Workload, path: pathlib.Path, name: str, *argv: str
    ) -> sandbox.Container:
        prepare = mounted(folders[name == "target"], "value")
        return sandbox.Container(path / name, name, *argv, user=65532, prepare=prepare)

    monkeypatch.setattr(sandboxed, "container", container)
    monkeypatch.setattr(sandboxed, "check", replaced)
    one = workload.Workload("held", source, workload.Options(), workload.equal)
    before, _, artifact = sandboxed.capture(one, tmp_path, stores.Store(tmp_path / "checkpoints"))
    assert before["name"].endswith(" (deleted)")
    with sandboxed.restoring(one, tmp_path, artifact) as target:
        after = answer(target.pid)
    assert after["name"] == f"/etc/config/{folders[1]}/setting"
    assert after["read"] == after["near"] == "value\n"


@pytest.mark.parametrize("address", ["10.99.0.5", "fd00:99::5", "127.0.0.1"])
def test_clients_of_a_worker_that_is_captured_are_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """They see the end of their connection at once, and so does the restored worker."""
    made: list[subprocess.Popen[str]] = []
    answer = sandboxed.check

    def connected(pid: int) -> sandboxed.Object:
        if not made:
            argv = ["nsenter", "-t", str(pid), "-n", "python3", "-c", CLIENT, address]
            made.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            assert made[0].stdout
            assert made[0].stdout.readline() == "hello\n"
        return answer(pid)

    monkeypatch.setattr(sandboxed, "check", connected)
    family = "::" if ":" in address else ""
    source = SERVER.replace('("", 9200)', f'("{family}", 9200)')
    if family:
        source = source.replace("9200))", "9200), family=socket.AF_INET6)")
    one = workload.Workload("server", source, workload.Options(), workload.equal)
    before, _, artifact = sandboxed.capture(one, tmp_path, stores.Store(tmp_path / "checkpoints"))
    assert before == {"ends": ["connected"]}
    begin = time.monotonic()
    said, _ = made[0].communicate(timeout=20)
    assert said.strip() in ("end", "reset")
    assert time.monotonic() - begin < 15, "and not when their patience ends"
    with sandboxed.restoring(one, tmp_path, artifact) as target:
        assert sandboxed.check(target.pid) == {"ends": ["Transport endpoint is not connected"]}


def test_who_has_the_old_address_now_stays_reachable(tmp_path: pathlib.Path) -> None:
    """The address of the captured pod belongs to another one: nothing here may claim it."""
    one = workload.load("net_own_address")
    before, _, artifact = sandboxed.capture(one, tmp_path, stores.Store(tmp_path / "checkpoints"))
    with sandboxed.restoring(one, tmp_path, artifact) as target:
        one.compare(before, sandboxed.check(target.pid))
        argv = ["nsenter", "-t", str(target.pid), "-n", "ip", "-o", "route", "get"]
        for address in sandboxed.ADDRESSES["source"]:
            bare = address.partition("/")[0]
            found = subprocess.run([*argv, bare], capture_output=True, text=True, check=True)
            assert " dev eth0 " in found.stdout, "it leads out of the pod"
            assert not found.stdout.startswith("local ")
