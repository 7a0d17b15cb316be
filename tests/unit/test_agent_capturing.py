"""Quiesce and wake around captures; the conversations are in test_agent_captures.py."""

import asyncio
import os
import subprocess

import msgspec
import pytest

from chrek import checkpoint, config, errors, log, names, storage
from chrek.agent import calls, capturing, journal, slots
from fakes import projected

QUIESCE = {"http": {"port": 8000, "path": "/sleep"}}
WAKE = {"http": {"port": 8000, "path": "/wake_up"}}
WANTED = projected.checkpoint(quiesce=QUIESCE, wake=WAKE)
POD = msgspec.structs.replace(projected.POD, ip="10.0.0.9")


class Scene:
    """Notes what happens in its order; each outcome of a dump, quiesce or wake can be an error."""

    def __init__(self, path, monkeypatch, process):
        self.happened, self.outcomes, self.problems = [], [], {}
        self.reporter = projected.Reporter()
        self.init = projected.Init(process.pid)
        settings = config.AgentConfig(
            apiVersion="chrek.nvidia.com/v1alpha1",
            release="chrek",
            watchNamespaces=["ns"],
            storage=config.Storage(pvc=config.Pvc(basePath=str(path))),
        )
        kept = storage.Storage(settings.storage, "chrek", transfer_seconds=1)
        self.made = capturing.Capturing(
            *(settings, "n", kept, self.reporter, slots.Slots(1)),
            journal.Results(path / "signals"),
        )
        monkeypatch.setattr(capturing, "RETRY_SECONDS", 0.01)
        monkeypatch.setattr(calls, "call", self._call)
        monkeypatch.setattr(checkpoint, "capture", self._dump)

    async def _call(self, action, *, pod_ip, caller, reason):
        assert (pod_ip, caller) == (POD.ip, self.init.peer)
        self.happened.append(action["http"]["path"])
        if problems := self.problems.get(action["http"]["path"]):
            raise errors.ToolError(problems.pop(0), reason=reason)

    def _dump(self, request, store, logger, *, gpus, on_committed, on_resumed):
        self.happened.append("dump")
        outcome = self.outcomes.pop(0)
        if outcome == "late":
            on_resumed()
            raise errors.StoreError("full")
        if outcome:
            raise outcome
        if request.leave_running:
            on_resumed()
        done = checkpoint.Captured(manifest=projected.described("u-1"), digest="sha256:9")
        on_committed(done)
        return done

    async def capture(self, *outcomes, serving):
        self.outcomes = list(outcomes)
        request = self.made.request(self.init.peer, 7, POD, WANTED, leave_running=serving)
        async with asyncio.timeout(5):
            await self.made.capture(
                *(self.init.conn, self.init.peer, lambda: POD, WANTED, request),
                log.get("test"),
            )

    async def lines(self):
        await asyncio.sleep(0.02)
        found = []
        while True:
            try:
                async with asyncio.timeout(0.05):
                    found.append(await self.init.read())
            except TimeoutError:
                return found


@pytest.fixture
def scene(tmp_path, monkeypatch):
    with subprocess.Popen(["sleep", "60"]) as process:
        made = Scene(tmp_path, monkeypatch, process)
        yield made
        made.init.close()
        process.kill()


async def test_a_serving_worker_is_quiesced_and_woken(scene):
    await scene.capture(None, serving=True)
    assert scene.happened == ["/sleep", "dump", "/wake_up"]
    assert sorted(await scene.lines()) == ["committed", "dumping", "resumed"]
    assert scene.reporter.results[0]["uuid"] == "u-1"


async def test_a_job_is_quiesced_only(scene):
    await scene.capture(None, serving=False)
    assert scene.happened == ["/sleep", "dump"]
    assert await scene.lines() == ["dumping", "committed"]


@pytest.mark.parametrize("serving", [True, False])
async def test_what_runs_on_after_a_failed_dump_is_woken(scene, serving):
    await scene.capture(errors.CriuError("busy"), None, serving=serving)
    first = ["/sleep", "dump", "/wake_up", "/sleep", "dump"]
    assert scene.happened == first + ["/wake_up"] * serving
    lines = await scene.lines()
    assert lines[:3] == ["dumping", "resumed CriuFailed busy", "dumping"]


async def test_a_job_that_is_given_up_is_not_woken(scene):
    with pytest.raises(errors.CriuError):
        await scene.capture(*[errors.CriuError("busy")] * 3, serving=False)
    assert scene.happened == ["/sleep", "dump", "/wake_up"] * 2 + ["/sleep", "dump"]
    assert (await scene.lines())[-1] == "dumping"


@pytest.mark.parametrize("serving", [True, False])
async def test_a_quiesce_that_fails(scene, serving):
    scene.problems["/sleep"] = ["it said no"]
    with pytest.raises(errors.ToolError) as caught:
        await scene.capture(serving=serving)
    assert caught.value.reason == names.Reason.QUIESCE_FAILED
    # It may have begun to sleep.
    assert scene.happened == ["/sleep"] + ["/wake_up"] * serving
    assert await scene.lines() == ["resumed QuiesceFailed it said no"] * serving


async def test_an_artifact_that_fails_after_the_worker_runs_again(scene):
    with pytest.raises(errors.StoreError):
        await scene.capture("late", "late", "late", serving=True)
    assert scene.happened == ["/sleep", "dump", "/wake_up"] * 3
    lines = await scene.lines()
    assert lines.count("resumed") == 3
    assert lines.count("resumed StoreFailed full") == 3


async def test_a_wake_is_tried_again(scene):
    scene.problems["/wake_up"] = ["not now", "not now"]
    await scene.capture(None, serving=True)
    assert scene.happened == ["/sleep", "dump"] + ["/wake_up"] * 3
    assert [told[1] for told in scene.reporter.told] == ["Normal"]


async def test_a_wake_that_fails_for_good_spoils_no_artifact(scene):
    scene.problems["/wake_up"] = ["never"] * 3
    await scene.capture(None, serving=True)
    assert ("p", "Warning", "WakeFailed", "never") in scene.reporter.told
    assert scene.reporter.results[0]["uuid"] == "u-1"


async def test_a_container_that_ended(scene):
    os.kill(scene.init.peer.pid, 9)
    os.waitid(os.P_PID, scene.init.peer.pid, os.WEXITED | os.WNOWAIT)
    os.waitpid(scene.init.peer.pid, 0)
    with pytest.raises(capturing.GoneError):
        await scene.capture(errors.CriuError("gone"), serving=True)
    assert scene.happened == ["/sleep", "dump"]
