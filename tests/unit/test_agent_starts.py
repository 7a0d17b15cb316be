"""A worker's start, with a chrek-init on the other end; only the restore itself is replaced."""

import asyncio
import os
import pathlib
import subprocess
import threading

import msgspec
import pytest

from chrek import config, errors, names, restore
from chrek.agent import journal, slots, starts
from fakes import projected
from fakes.projected import POD, checkpoint


class Scene:
    def __init__(self, path, pid):
        storage = config.Storage(pvc=config.Pvc(basePath=str(path / "checkpoints")))
        self.settings = config.AgentConfig(
            apiVersion="chrek.nvidia.com/v1alpha1",
            release="chrek",
            watchNamespaces=["ns"],
            storage=storage,
            stagingPath=str(path / "staging"),
            silenceTimeoutSeconds=30,
        )
        self.base = path / "checkpoints"
        self.journal = journal.Journal(path / "signals")
        self.reporter = projected.Reporter()
        self.slots = slots.Slots(1)
        self.init = projected.Init(pid)

    async def start(self, *, pod=POD, checkpoints=()):
        made = starts.Starts(self.settings, "chrek", self.reporter, self.journal, self.slots)
        async with asyncio.timeout(5):
            await made.handle(self.init.conn, self.init.peer, pod, list(checkpoints))

    def artifact(self, **source):
        return checkpoint(variants=(projected.commit(self.base, **source),))


@pytest.fixture
def process():
    with subprocess.Popen(["sleep", "60"]) as made:
        yield made
        made.kill()


@pytest.fixture
async def scene(tmp_path, process):
    made = Scene(tmp_path, process.pid)
    yield made
    made.init.close()


@pytest.fixture
def restoring(monkeypatch):
    """Replaces the restore; returns the calls that it got."""
    calls = []

    def use(outcome=None):
        def restored(artifact, init_pid, staging, logger, *, volumes, timeout_seconds, progress):
            calls.append((artifact, init_pid, staging, volumes, timeout_seconds))
            progress("criu")
            if callable(outcome):
                outcome()
            elif outcome is not None:
                raise outcome
            return restore.Restored(seconds={"criu": 0.5}, total_seconds=0.75)

        monkeypatch.setattr(restore, "restore", restored)
        return calls

    return use


async def test_a_worker_without_checkpoint_starts_cold(scene, restoring):
    calls = restoring()
    await scene.start()
    line = "cold CheckpointNotFound no DynamoCheckpoint llm in namespace ns"
    assert await scene.init.read() == line
    assert not calls
    assert scene.reporter.told == [
        ("p", "CheckpointNotFound", line.partition("CheckpointNotFound ")[2], False)
    ]
    assert scene.journal.get("uid-1") is None


COLD = {
    "not Ready": (lambda scene: checkpoint(phase="Creating"), "CheckpointNotReady"),
    "another variant": (lambda scene: checkpoint(variants=()), "NoMatchingVariant"),
    "no artifact": (lambda scene: checkpoint(), "InvalidSpec"),
    "another environment": (lambda scene: scene.artifact(environment={}), "Incompatible"),
}


@pytest.mark.parametrize(("given", "reason"), COLD.values(), ids=list(COLD))
async def test_other_reasons_for_a_cold_start(scene, restoring, given, reason):
    calls = restoring()
    await scene.start(checkpoints=[given(scene)])
    assert (await scene.init.read()).startswith(f"cold {reason} ")
    assert not calls


async def test_a_restored_worker(scene, restoring, process):
    calls = restoring()
    item = scene.artifact()
    await scene.start(checkpoints=[item])
    assert await scene.init.read() == "restoring 30 10001 exit"
    assert await scene.init.read("restored") == "restored"
    assert all(
        line.startswith(("restoring ", "progress ", "restored")) for line in scene.init.lines
    )
    ((artifact, pid, staging, volumes, timeout),) = calls
    assert artifact.manifest.uuid == item.variants[0].uuid
    assert (pid, volumes, timeout) == (process.pid, {}, 300)
    assert staging.name == "c" * 64
    assert scene.journal.get("uid-1") is None
    ((_, reason, message, restored),) = scene.reporter.told
    assert (reason, restored) == ("Restored", True)
    assert "in 0.75 s (0.50 s in CRIU)" in message


async def test_an_artifact_of_the_releases_own_namespace(scene, restoring):
    calls = restoring()
    variant = projected.commit(scene.base, "")
    pod = msgspec.structs.replace(POD, namespace="chrek")
    await scene.start(pod=pod, checkpoints=[checkpoint(namespace="chrek", variants=(variant,))])
    assert await scene.init.read("restored") == "restored"
    assert len(calls) == 1


FAILURES = [
    (errors.ArtifactError("pages-1.img: damaged"), "ArtifactCorrupt"),
    (errors.PrivilegeError("uid 0"), "PrivilegeMismatch"),
    (errors.UnsupportedError("no overlay"), "Unsupported"),
    (errors.CriuError("criu restore failed: x", log="the log"), "CriuFailed"),
    (errors.CriuError("no end", reason="RestoreTimeout"), "RestoreTimeout"),
    (errors.ToolError("chrek-enter: x"), "ToolFailed"),
    (OSError(28, "No space left on device"), "InternalError"),
    (ValueError("a bug\nof two lines"), "InternalError"),
]


@pytest.mark.parametrize(("error", "reason"), FAILURES, ids=range(len(FAILURES)))
async def test_a_restore_that_fails(scene, restoring, error, reason):
    restoring(error)
    item = scene.artifact()
    await scene.start(checkpoints=[item])
    line = await scene.init.read("failed")
    assert line == f"failed {reason} {error}".replace("\n", " ")
    record = scene.journal.get("uid-1")
    assert (record.state, record.reason, record.message) == ("failed", reason, str(error))
    assert record.uuid == item.variants[0].uuid
    assert scene.reporter.told == [("p", reason, str(error), False)]


async def test_after_a_failure_the_pods_next_start_is_cold(scene, restoring, tmp_path):
    calls = restoring(errors.CriuError("boom"))
    item = scene.artifact()
    await scene.start(checkpoints=[item])
    assert await scene.init.read("failed") == "failed CriuFailed boom"
    # The next container, and an agent that was started since.
    scene.journal = journal.Journal(tmp_path / "signals")
    await scene.start(checkpoints=[item])
    line = "cold PreviousRestoreFailed the last restore in this pod failed: CriuFailed: boom"
    assert await scene.init.read("cold") == line
    assert len(calls) == 1
    # A newer artifact is another matter, and so is another pod.
    restoring()
    await scene.start(pod=msgspec.structs.replace(POD, uid="uid-2"), checkpoints=[item])
    assert await scene.init.read("restored") == "restored"
    await scene.start(checkpoints=[scene.artifact()])
    assert await scene.init.read("restored") == "restored"


async def test_an_agent_that_dies_during_a_restore(scene, restoring, tmp_path):
    """The record is on disk before anything is changed in the container."""

    def die():
        raise errors.CriuError(journal.Journal(tmp_path / "signals").get("uid-1").message)

    restoring(die)
    await scene.start(checkpoints=[scene.artifact()])
    line = "failed CriuFailed the agent ended during the restore"
    assert await scene.init.read("failed") == line


async def test_a_container_that_ended_during_the_restore(scene, restoring, process):
    def end():
        process.kill()
        process.wait()

    restoring(end)
    await scene.start(checkpoints=[scene.artifact()])
    assert (await scene.init.read("failed")).startswith("failed PeerRefused the container ended")
    assert scene.journal.get("uid-1").state == "failed"


async def test_a_peer_that_hangs_up_before_the_restore(scene, restoring):
    calls = restoring()
    scene.init.hang_up()
    await scene.start(checkpoints=[scene.artifact()])
    assert not calls
    assert scene.journal.get("uid-1") is None


async def test_silence_is_broken_while_others_have_the_slots(scene, restoring):
    """A start that waits for its turn must not look like a dead agent."""
    restoring()
    scene.settings = msgspec.structs.replace(scene.settings, silenceTimeoutSeconds=0.03)
    async with scene.slots.taken():
        waiting = asyncio.ensure_future(scene.start(checkpoints=[scene.artifact()]))
        for _ in range(3):
            assert await scene.init.read("progress") == "progress queued"
    await waiting
    assert await scene.init.read("restored") == "restored"


async def test_no_more_restores_than_slots(scene, restoring, tmp_path, process):
    running, most, lock = 0, 0, threading.Lock()

    def count():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.02)
        with lock:
            running -= 1

    restoring(count)
    item = scene.artifact()
    await asyncio.gather(*(scene.start(checkpoints=[item]) for _ in range(3)))
    assert most == 1


async def test_a_pod_that_never_restarts_is_emptied_first(scene, restoring, monkeypatch):
    """chrek-init then starts the command in place, which needs a container of its own."""
    restoring(errors.CriuError("boom"))
    emptied = []
    monkeypatch.setattr(starts, "_empty", emptied.append)
    pod = msgspec.structs.replace(POD, never_restarts=True)
    await scene.start(pod=pod, checkpoints=[scene.artifact()])
    assert await scene.init.read("restoring") == "restoring 30 10001 exec"
    assert await scene.init.read("failed") == "failed CriuFailed boom"
    assert emptied == [scene.init.peer.pid]


async def test_a_signal_path_that_cannot_be_written(scene, restoring, tmp_path):
    """Without the record nothing may be changed in the container: cold, and at once."""
    calls = restoring()
    item = scene.artifact()
    os.rmdir(tmp_path / "signals/journal")
    pathlib.Path(tmp_path / "signals/journal").touch()
    await scene.start(checkpoints=[item])
    assert (await scene.init.read()).startswith("cold StoreFailed ")
    assert not calls
    assert scene.reporter.told[0][1] == names.Reason.STORE_FAILED


async def test_a_failure_is_told_even_when_it_cannot_be_recorded(scene, restoring, tmp_path):
    def lose():
        os.unlink(tmp_path / "signals/journal/uid-1.json")
        os.rmdir(tmp_path / "signals/journal")
        raise errors.CriuError("boom")

    restoring(lose)
    await scene.start(checkpoints=[scene.artifact()])
    assert await scene.init.read("failed") == "failed CriuFailed boom"
