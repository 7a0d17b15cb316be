"""The agent ties its parts together; an API server of dictionaries stands on the other side."""

import asyncio
import contextlib
import json
import logging
import os
import pathlib
import signal
import socket
import subprocess

import aiohttp
import msgspec
import pytest
import yaml

from chrek import config, errors, peer
from chrek.agent import journal, main, selfcheck
from fakes import projected, watchable

CONTAINER = {"name": "main", "image": "llm:1", "command": ["serve"]}
POD = {
    "uid": "uid-1",
    "annotations": {"nvidia.com/chrek-checkpoint": "llm"},
    "labels": {"nvidia.com/chrek-managed": "true"},
}


@pytest.fixture
async def server():
    async with watchable.Watchable() as made:
        yield made


@pytest.fixture
def kubeconfig(server, tmp_path, monkeypatch):
    raw = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(raw))
    monkeypatch.setenv("KUBECONFIG", str(path))


@pytest.fixture
def settings(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("checkpoints", "kubelet"):
        (tmp_path / name).mkdir()
    return {
        "apiVersion": "chrek.nvidia.com/v1alpha1",
        "kind": "AgentConfig",
        "release": "chrek",
        "watchNamespaces": ["ns"],
        "storage": {"pvc": {"basePath": str(tmp_path / "checkpoints")}},
        "signalHostPath": str(tmp_path / "signals"),
        "kubeletRoot": str(tmp_path / "kubelet"),
        "stagingPath": str(tmp_path / "staging"),
        "httpPort": port,
    }


@pytest.fixture
async def agent(kubeconfig, settings, tmp_path):
    path = tmp_path / "chrek.yaml"
    path.write_text(yaml.safe_dump(settings))
    made = main.Agent(config.load(path, config.AgentConfig), "node-1", "chrek")
    # The others ask about the machine of this test, which is no node.
    made._selfcheck = selfcheck.Selfcheck(
        [one for one in made._selfcheck.checks if one.name == "store"]
    )
    yield made
    await made._client.close()


@contextlib.contextmanager
def identified(as_whom):
    """Replaces the question to the kernel: who is at the other end."""

    def identify(_):
        if isinstance(as_whom, Exception):
            raise as_whom
        return as_whom

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer, "identify", identify)
        yield


@pytest.fixture
def init():
    with subprocess.Popen(["sleep", "60"]) as process:
        made = projected.Init(process.pid)
        yield made
        made.close()
        process.kill()


async def until(true):
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


def like(init, **changed):
    fields = {"pid": init.peer.pid, "container_id": "c" * 64, "container": "main"}
    fields |= {"pod_uid": "uid-1", "pidfd": os.pidfd_open(init.peer.pid)}
    return peer.Peer(**{**fields, **changed})


async def converse(agent, init, hello, who):
    """One conversation; returns the first line that the agent sent."""
    await init.say(hello)
    for informer in agent._checkpoint_informers:
        informer.synced.set()
    with identified(who):
        async with asyncio.timeout(5):
            await agent._serve("uid-1", -1, init.conn.socket)
    return await init.read()


async def test_a_worker_is_answered(agent, init):
    agent._pods["uid-1"] = projected.POD
    line = await converse(agent, init, "chrek 1 start", like(init))
    assert line == "cold CheckpointNotFound no DynamoCheckpoint llm in namespace ns"


async def test_a_pod_that_cannot_be_restored(agent, init, server):
    refused = ("HostNamespace", "hostPID cannot be combined with checkpoints")
    agent._pods["uid-1"] = msgspec.structs.replace(projected.POD, refused=refused)
    line = await converse(agent, init, "chrek 1 start", like(init))
    assert line == " ".join(("cold", *refused))
    await agent._reporter.drain()
    bodies = [json.loads(body) for method, _, _, body in server.requests if method == "PATCH"]
    start = json.loads(bodies[0]["metadata"]["annotations"]["nvidia.com/chrek-start"])
    assert (start["outcome"], start["reason"]) == ("cold", "HostNamespace")


async def test_a_worker_that_is_served_already(agent, init, monkeypatch):
    """By an agent before this one; it may still be captured."""
    served = []

    async def serve(conn, caller, pod_of, checkpoints_of, cold):
        served.append((pod_of().name, checkpoints_of(), cold))
        await conn.send("served")

    monkeypatch.setattr(agent._captures, "serve", serve)
    agent._pods["uid-1"] = projected.POD
    assert await converse(agent, init, "chrek 1 serving", like(init)) == "served"
    assert served == [("p", [], None)]


REFUSED = {
    "whom the kernel does not know": (
        lambda init: errors.PeerError("process 7 is not PID 1 of a container"),
        "chrek 1 start",
        "process 7 is not PID 1",
    ),
    "of another pod": (
        lambda init: like(init, pod_uid="uid-2"),
        "chrek 1 start",
        "the caller is of pod uid-2, not of uid-1",
    ),
    "another container": (
        lambda init: like(init, container="sidecar"),
        "chrek 1 start",
        "container sidecar of pod p is not the managed one",
    ),
    "that captures what is no job": (like, "chrek 1 source", "pod p does not ask for that"),
    "of another version": (like, "chrek 2 start", "pod p does not ask for that"),
    "that speaks something else": (like, "GET / HTTP/1.1", "pod p does not ask for that"),
}


@pytest.mark.parametrize(("who", "hello", "message"), REFUSED.values(), ids=list(REFUSED))
async def test_a_caller_is_refused(agent, init, who, hello, message):
    agent._pods["uid-1"] = projected.POD
    line = await converse(agent, init, hello, who(init))
    assert line.startswith(f"cold PeerRefused {message}")


async def test_a_caller_of_a_pod_that_nobody_knows(agent, init):
    line = await converse(agent, init, "chrek 1 start", like(init))
    assert line.startswith("cold PeerRefused ")


async def test_a_caller_that_says_nothing(agent, init, monkeypatch):
    monkeypatch.setattr(main, "HELLO_SECONDS", 0.05)
    with identified(errors.PeerError("never asked")):
        await agent._serve("uid-1", -1, init.conn.socket)
    assert (await init.read()).startswith("cold PeerRefused no hello")


async def test_pods_come_and_go(agent, server, tmp_path):
    """As told by the API server: a socket for each managed pod that runs, and no longer."""
    opened, closed = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent._sockets, "open", opened.append)
        patch.setattr(agent._sockets, "close", closed.append)
        await server.put("other", spec={"containers": [{"name": "x"}]})
        for informer in agent._pod_informers:
            real = informer._project
            # The server of this test makes the metadata itself.
            informer._project = lambda item, real=real: real(
                {**item, "metadata": {**item["metadata"], **POD, "uid": item.get("uid", "uid-0")}}
            )
        tasks = [asyncio.create_task(i.run()) for i in agent._pod_informers]
        running = {"spec": {"containers": [CONTAINER]}, "status": {"phase": "Running"}}
        await server.put("a", uid="uid-1", **running)
        await until(lambda: "uid-1" in agent._pods)
        assert set(opened) == {"uid-1"}
        # The same name, another pod: as a StatefulSet does it.
        await server.put("a", uid="uid-2", **running)
        await until(lambda: "uid-2" in agent._pods)
        assert closed == ["uid-1"]
        await server.put("a", uid="uid-2", spec=running["spec"], status={"phase": "Succeeded"})
        await until(lambda: "uid-2" not in agent._pods)
        await server.delete("a")
        await until(lambda: not agent._pods)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_worker_that_dies_on_probation(agent, monkeypatch):
    """The pod's status says so; when it is the pod's end, before the pod is forgotten."""
    monkeypatch.setattr(agent._sockets, "open", lambda uid: None)
    told = projected.Reporter()
    monkeypatch.setattr(agent._probation, "_reporter", told)
    record = journal.Record(pod="ns/p", state="restored", uuid="u", variant="v", container="c1")
    agent._probation.begin(projected.POD, record)
    dead = msgspec.structs.replace(projected.POD, exits={"c1": 1}, finished=True)
    agent._pod_changed("ns/p", dead, projected.POD)
    assert [start.outcome for _, start in told.starts] == ["unhealthy"]
    assert agent._journal.get("uid-1") is None


async def test_the_api_server_is_asked_for_a_pod(agent, server, monkeypatch):
    item = {
        "metadata": {"namespace": "ns", "name": "p", **POD},
        "spec": {"containers": [CONTAINER]},
    }
    answers = [item, {**item, "metadata": {**item["metadata"], "uid": "uid-2"}}, None]

    async def find(*_):
        return answers.pop(0)

    monkeypatch.setattr(agent._client, "find", find)
    assert (await agent._look(projected.POD)).uid == "uid-1"
    assert await agent._look(projected.POD) is None
    assert await agent._look(projected.POD) is None


async def test_what_keeps_the_agent_from_being_ready(agent, tmp_path):
    (store,) = agent._selfcheck.checks
    assert agent.problems() == ["the API server has not answered yet", "not looked at yet: store"]
    (tmp_path / "checkpoints").rmdir()
    await agent._selfcheck.look(store)
    (problem,) = agent.problems()[1:]
    assert problem.startswith(f"store: mkdir {tmp_path}/checkpoints/.preflight-node-1-")
    assert problem.endswith("ENOENT: No such file or directory (check the volume of storage.pvc)")
    (tmp_path / "checkpoints").mkdir()
    await agent._selfcheck.look(store)
    for informer in (*agent._pod_informers, *agent._checkpoint_informers):
        informer.synced.set()
    assert agent.problems() == []


async def test_what_is_under_way_is_told(agent):
    async with agent._slots.taken("capture"):
        found = agent.preflight()
    assert (found.node, found.captures, found.restores) == ("node-1", 1, 0)
    assert found.checks == []


async def test_the_server_is_asked_for_its_date_by_a_thread(agent):
    agent._loop = asyncio.get_running_loop()
    text = await asyncio.to_thread(agent._server_date)
    assert text.endswith("GMT")


async def test_from_start_to_sigterm(agent, settings, tmp_path):
    """What an earlier agent left in the staging directory goes; SIGTERM ends it, quickly."""
    (tmp_path / "staging/old").mkdir(parents=True)
    running = asyncio.create_task(agent.run())
    url = f"http://127.0.0.1:{settings['httpPort']}/readyz"
    async with aiohttp.ClientSession() as session, asyncio.timeout(5):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        break
            await asyncio.sleep(0.01)
    assert not (tmp_path / "staging/old").exists()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 5)


@pytest.fixture
def quiet():
    """`run` sets logging up for the whole process."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def test_the_environment_must_name_node_and_namespace(tmp_path, settings, monkeypatch, quiet):
    path = tmp_path / "chrek.yaml"
    path.write_text(yaml.safe_dump(settings))
    monkeypatch.delenv("NODE_NAME", raising=False)
    monkeypatch.setenv("POD_NAMESPACE", "")
    with pytest.raises(errors.ConfigError, match="NODE_NAME and POD_NAMESPACE not set"):
        main.run(path)


def test_the_log_level_of_the_command_line_counts(tmp_path, settings, monkeypatch, quiet):
    path = tmp_path / "chrek.yaml"
    path.write_text(yaml.safe_dump({**settings, "logLevel": "error"}))
    monkeypatch.delenv("NODE_NAME", raising=False)
    for level, expected in (("", logging.ERROR), ("debug", logging.DEBUG)):
        with pytest.raises(errors.ConfigError):
            main.run(path, level)
        assert logging.getLogger().level == expected


def test_a_signal_path_that_cannot_be_used(kubeconfig, settings, tmp_path):
    (tmp_path / "signals").touch()
    made = msgspec.convert(settings, config.AgentConfig)
    with pytest.raises(
        errors.ConfigError, match=r"signal path cannot be used: .*signals"
    ) as caught:
        main.Agent(made, "node-1", "chrek")
    assert "storage.signalHostPath" in caught.value.hint


def test_a_configuration_that_cannot_be_used(tmp_path):
    (tmp_path / "chrek.yaml").write_text(json.dumps({"kind": "AgentConfig"}))
    with pytest.raises(errors.ConfigError):
        main.run(pathlib.Path(tmp_path / "chrek.yaml"))
