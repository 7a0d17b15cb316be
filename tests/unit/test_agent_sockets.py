"""A socket in a directory that belongs to a pod, which may do there what it likes."""

import asyncio
import contextlib
import os
import socket
import stat

import pytest

from chrek import names
from chrek.agent import sockets

UID = "3f1c9c0e-8d0a-4a55-9a39-6f2d1c7f0a11"


def volume(root, uid=UID):
    # As long as on real nodes, longer than sun_path.
    return root / "pods" / uid / "volumes/kubernetes.io~empty-dir" / names.VOLUME


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "kubelet-root-directory-with-a-long-name"
    path.mkdir()
    return path


@pytest.fixture
async def serving(root):
    """What was served: (uid, first bytes, names in the volume)."""
    served = []

    async def serve(uid, directory, connection):
        connection.setblocking(False)
        data = await asyncio.get_running_loop().sock_recv(connection, 100)
        served.append((uid, data, sorted(os.listdir(directory))))
        if data == b"raise":
            raise RuntimeError("a bug")
        if data == b"wait":
            await asyncio.sleep(0.2)
            served.append("waited")

    made = sockets.Sockets(root, serve)
    made.served = served
    yield made
    made.stop()
    await asyncio.sleep(0.01)


async def call(root, data=b"hello", uid=UID):
    """Connect as the pod does, by its own path, and wait for the end."""
    directory = os.open(volume(root, uid), os.O_PATH)
    try:
        async with asyncio.timeout(5):
            while True:
                with socket.socket(socket.AF_UNIX) as made:
                    try:
                        made.connect(f"/proc/self/fd/{directory}/{names.SOCKET_NAME}")
                    except (FileNotFoundError, ConnectionRefusedError):
                        await asyncio.sleep(0.01)
                        continue
                    made.setblocking(False)
                    made.send(data)
                    with contextlib.suppress(ConnectionError):
                        await asyncio.get_running_loop().sock_recv(made, 10)
                    return
    finally:
        os.close(directory)


async def test_a_pod_is_served_once_its_volume_is_there(root, serving):
    serving.open(UID)
    serving.open(UID)
    await asyncio.sleep(0.03)
    volume(root).mkdir(parents=True)
    await call(root)
    await call(root)
    assert serving.served == [(UID, b"hello", [names.SOCKET_NAME])] * 2
    mode = (volume(root) / names.SOCKET_NAME).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o777
    serving.close(UID)
    await asyncio.sleep(0.01)
    assert os.listdir(volume(root)) == []


async def test_what_stood_at_its_name_is_replaced_and_never_followed(root, serving, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for number, plant in enumerate(
        [
            lambda path: path.symlink_to(victim),
            lambda path: path.symlink_to(tmp_path / "new"),
            lambda path: path.write_text("a file"),
            lambda path: os.mkfifo(path),
            lambda path: os.link(victim, path),
        ]
    ):
        uid = f"{number}{UID[1:]}"
        volume(root, uid).mkdir(parents=True)
        plant(volume(root, uid) / names.SOCKET_NAME)
        serving.open(uid)
        await call(root, uid=uid)
    assert [uid[0] for uid, *_ in serving.served] == list("01234")
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "new").exists()


async def test_a_pod_that_is_in_the_way_harms_itself_only(root, serving, caplog):
    """The kubelet's directory, and one in which a directory has the socket's name."""
    other = f"0{UID[1:]}"
    (volume(root) / names.SOCKET_NAME / "full").mkdir(parents=True)
    volume(root, other).mkdir(parents=True)
    serving.open(UID)
    serving.open(other)
    await call(root, uid=other)
    assert [uid for uid, *_ in serving.served] == [other]
    assert "cannot listen in a pod's volume" in caplog.text
    (volume(root) / names.SOCKET_NAME / "full").rmdir()
    (volume(root) / names.SOCKET_NAME).rmdir()
    serving.open(UID)
    await call(root)
    assert serving.served[-1][0] == UID


@pytest.mark.parametrize("name", ["pods", UID, names.VOLUME])
async def test_a_link_on_the_way_is_not_followed(root, serving, tmp_path, caplog, name):
    elsewhere = tmp_path / "elsewhere"
    volume(elsewhere).mkdir(parents=True)
    real = next(p for p in [volume(elsewhere), *volume(elsewhere).parents] if p.name == name)
    link = root / real.relative_to(elsewhere)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(real)
    serving.open(UID)
    await asyncio.sleep(0.05)
    assert os.listdir(volume(elsewhere)) == []
    assert "cannot listen in a pod's volume" in caplog.text


async def test_a_node_without_kubelet_directory(serving, root, caplog):
    root.rmdir()
    serving.open(UID)
    await asyncio.sleep(0.02)
    assert "cannot listen in a pod's volume" in caplog.text


async def test_a_conversation_that_fails_ends_alone(root, serving, caplog):
    volume(root).mkdir(parents=True)
    serving.open(UID)
    await call(root, b"raise")
    assert "conversation failed" in caplog.text
    await call(root)
    assert [data for _, data, _ in serving.served] == [b"raise", b"hello"]


async def test_conversations_outlive_the_listener(root, serving):
    volume(root).mkdir(parents=True)
    serving.open(UID)
    calling = asyncio.ensure_future(call(root, b"wait"))
    while not serving.served:
        await asyncio.sleep(0.01)
    serving.stop()
    await calling
    assert serving.served[-1] == "waited"
    assert os.listdir(volume(root)) == []


async def test_a_pod_that_is_closed_and_opened_again(root, serving):
    volume(root).mkdir(parents=True)
    serving.open(UID)
    await call(root)
    serving.close(UID)
    serving.open(UID)
    await asyncio.sleep(0.05)
    await call(root)
    assert len(serving.served) == 2
    serving.close(UID)
    await asyncio.sleep(0.05)
    assert os.listdir(volume(root)) == []


async def test_no_descriptor_is_left_open(root, serving):
    volume(root).mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    serving.open(UID)
    for _ in range(3):
        await call(root)
    serving.close(UID)
    await asyncio.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) == before
