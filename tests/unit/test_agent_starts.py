"""A worker's start, with a chrek-init on the other end; only the restore itself is replaced."""

import asyncio
import dataclasses
import os
import pathlib
import subprocess
import threading

import msgspec
import prometheus_client
import pytest

from chrek import config, errors, leftovers, names, procfs, restore, storage
from chrek.agent import journal, objects, probation, slots, starts
from fakes import projected
from fakes.projected import POD, checkpoint


class Marks:
    """Readers' marks, without an API server."""

    def __init__(self):
        self.readers = []
        self.left = []
        self.outcome = None
        self.delay = 0.0

    async def enter(self, namespace, identity_hash):
        await asyncio.sleep(self.delay)
        if self.outcome:
            raise self.outcome
        self.readers.append((namespace, identity_hash))

    def leave(self, namespace, identity_hash):
        self.left.append((namespace, identity_hash))


class Source:
    """Keeps the workers that it is to serve."""

    def __init__(self):
        self.served = []

    async def serve(self, conn, caller, pod_of, checkpoints_of, cold):
        self.served.append((pod_of().name, len(checkpoints_of()), cold.reason))
        await conn.send("serve", cold.reason, cold.message)


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
        self.base.mkdir()
        self.signals = path / "signals"
        self.reporter = projected.Reporter()
        self.slots = slots.Slots(1)
        self.marks = Marks()
        self.source = Source()
        self.woken = []
        self.wake_outcome = None
        self.init = projected.Init(pid)
        self.agent()

    def agent(self):
        """Another agent, with the journal of the one before it."""
        self.journal = journal.Journal(self.signals)
        self.probation = probation.Probation(self.reporter, self.journal, look=self.look)

    async def look(self, pod):
        return pod

    async def wake(self, action, *, pod_ip, caller, reason):
        self.woken.append((action, pod_ip, caller.pid, reason, self.journal.get("uid-1").state))
        if self.wake_outcome:
            raise self.wake_outcome

    async def start(self, *, pod=POD, checkpoints=(), container="c" * 64):
        made = starts.Starts(
            self.settings,
            storage.Storage(self.settings.storage, "chrek", transfer_seconds=1),
            reporter=self.reporter,
            records=self.journal,
            slots=self.slots,
            trial=self.probation,
            marks=self.marks,
            source=self.source,
            call=self.wake,
        )
        there = list(checkpoints)
        caller = dataclasses.replace(self.init.peer, container_id=container, pod_uid=pod.uid)
        async with asyncio.timeout(5):
            await made.handle(self.init.conn, caller, lambda: pod, lambda: there, 7)

    def artifact(self, **changed):
        return checkpoint(variants=(projected.commit(self.base),), **changed)

    def told(self):
        """Outcome, reason, uuid and variant of every report."""
        return [(s.outcome, str(s.reason), s.uuid, s.variant) for _, s in self.reporter.starts]


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
        def restored(
            artifact,
            init_pid,
            staging,
            logger,
            *,
            volumes,
            pod,
            gpus,
            timeout_seconds,
            progress,
            pages_arrive,
        ):
            assert pages_arrive is None
            assert gpus is None
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
    ((name, start),) = scene.reporter.starts
    assert (name, start.outcome, start.reason) == ("p", "cold", "CheckpointNotFound")
    assert start.message == line.partition("CheckpointNotFound ")[2]
    assert scene.journal.get("uid-1") is None


async def test_a_long_queue_is_not_joined(scene, restoring):
    calls = restoring()
    scene.settings = msgspec.structs.replace(scene.settings, maxQueuedRestores=1)
    async with scene.slots.taken("capture"), asyncio.TaskGroup() as group:

        async def wait():
            async with scene.slots.taken("capture"):
                pass

        waits = group.create_task(wait())
        while not scene.slots.waiting:
            await asyncio.sleep(0)
        labels = {"reason": "AgentBusy"}
        name = "chrek_cold_despite_ready_total"
        before = prometheus_client.REGISTRY.get_sample_value(name, labels) or 0.0
        await scene.start(checkpoints=[scene.artifact()])
        assert prometheus_client.REGISTRY.get_sample_value(name, labels) == before + 1
        assert await scene.init.read() == (
            "cold AgentBusy 1 dumps and restores wait for their turn on this node, and "
            "agent.maxQueuedRestores is 1"
        )
        assert not calls
        assert scene.journal.get("uid-1") is None, "the next start may be warm"
        waits.cancel()


def other_environment(scene):
    return checkpoint(variants=(projected.commit(scene.base, environment={}),))


def lost(scene):
    return checkpoint(variants=(objects.Variant("aaaa", "00000009", "sha256:1"),))


COLD = {
    "not Ready": (
        lambda scene: checkpoint(phase="Creating", variants=()),
        *("CheckpointNotReady", "", ""),
    ),
    "another variant": (lambda scene: checkpoint(variants=()), "NoMatchingVariant", "", ""),
    "a lost artifact": (lost, "ArtifactMissing", "00000009", "aaaa"),
    "a bad name": (
        lambda scene: checkpoint(variants=(objects.Variant("aaaa", "/", "sha256:1"),)),
        *("InvalidSpec", "/", "aaaa"),
    ),
    "being deleted": (lambda scene: checkpoint(deleting=True), "BeingDeleted", "", ""),
    "suspect": (
        lambda scene: checkpoint(variants=(objects.Variant("aaaa", "00000009", suspect=True),)),
        *("Suspect", "00000009", "aaaa"),
    ),
}


@pytest.mark.parametrize(("given", "reason", "uuid", "variant"), COLD.values(), ids=list(COLD))
async def test_other_reasons_for_a_cold_start(scene, restoring, given, reason, uuid, variant):
    calls = restoring()
    await scene.start(checkpoints=[given(scene)])
    assert (await scene.init.read()).startswith(f"cold {reason} ")
    assert not calls
    assert scene.told() == [("cold", reason, uuid, variant)]
    assert scene.journal.get("uid-1") is None


async def test_another_environment(scene, restoring):
    calls = restoring()
    await scene.start(checkpoints=[other_environment(scene)])
    assert (await scene.init.read()).startswith("cold EnvironmentDiffers ")
    assert not calls


async def test_a_variant_of_another_checkpoint_of_the_identity(scene, restoring):
    """A second object of the same identity has nothing of its own yet; the first has it all."""
    restoring()
    mine = checkpoint("mine", phase="Creating", variants=())
    pod = msgspec.structs.replace(POD, checkpoint="mine")
    await scene.start(pod=pod, checkpoints=[mine, scene.artifact()])
    assert await scene.init.read("restored") == "restored"


WORKER = msgspec.structs.replace(POD, capture_source="worker")
SERVED = {
    "no checkpoint yet": (WORKER, lambda scene: [], "CheckpointNotFound"),
    "not Ready": (
        POD,
        lambda scene: [checkpoint(phase="Pending", variants=(), capture_source="worker")],
        "CheckpointNotReady",
    ),
    "another variant": (
        POD,
        lambda scene: [checkpoint(variants=(), capture_source="worker")],
        "NoMatchingVariant",
    ),
    "a lost artifact": (
        POD,
        lambda scene: [checkpoint(capture_source="worker", variants=lost(scene).variants)],
        "ArtifactMissing",
    ),
}


@pytest.mark.parametrize(("pod", "there", "reason"), SERVED.values(), ids=list(SERVED))
async def test_a_worker_that_may_become_the_source(scene, restoring, pod, there, reason):
    checkpoints = there(scene)
    await scene.start(pod=pod, checkpoints=checkpoints)
    assert (await scene.init.read()).startswith(f"serve {reason} ")
    assert scene.source.served == [("p", len(checkpoints), reason)]
    assert [outcome for outcome, *_ in scene.told()] == ["cold"]


NOT_SERVED = {
    "of a checkpoint that a job captures": (WORKER, lambda scene: [checkpoint(variants=())]),
    "of one that is being deleted": (
        POD,
        lambda scene: [checkpoint(deleting=True, capture_source="worker")],
    ),
    "that only differs from the captured one": (
        POD,
        lambda scene: [
            checkpoint(variants=other_environment(scene).variants, capture_source="worker")
        ],
    ),
}


@pytest.mark.parametrize(("pod", "there"), NOT_SERVED.values(), ids=list(NOT_SERVED))
async def test_other_workers_are_no_sources(scene, restoring, pod, there):
    await scene.start(pod=pod, checkpoints=there(scene))
    assert (await scene.init.read()).startswith("cold ")
    assert scene.source.served == []


async def test_a_restore_where_workers_are_captured(scene, restoring):
    restoring()
    await scene.start(checkpoints=[scene.artifact(capture_source="worker")])
    assert await scene.init.read("restored") == "restored"
    assert scene.source.served == []


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
    assert scene.told() == [("restored", "Restored", item.variants[0].uuid, "aaaa")]
    assert "in 0.75 s (0.50 s in CRIU)" in scene.reporter.starts[0][1].message
    assert scene.reporter.starts[0][1].steps["criu"] == 0.5
    assert scene.marks.readers == scene.marks.left == [("ns", projected.HASH)]
    assert scene.woken == []


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
    assert scene.told() == [("failed", reason, item.variants[0].uuid, "aaaa")]
    assert scene.reporter.starts[0][1].message == str(error)
    assert scene.marks.left == [("ns", projected.HASH)]


async def test_after_a_failure_the_pods_next_start_is_cold(scene, restoring, tmp_path):
    calls = restoring(errors.CriuError("boom"))
    item = scene.artifact()
    await scene.start(checkpoints=[item])
    assert await scene.init.read("failed") == "failed CriuFailed boom"
    # The next container, and an agent that was started since.
    scene.agent()
    await scene.start(checkpoints=[item], container="d" * 64)
    line = "cold PreviousRestoreFailed the last restore in this pod failed: CriuFailed: boom"
    assert await scene.init.read("cold") == line
    assert len(calls) == 1
    assert scene.told()[1] == (*("cold", "PreviousRestoreFailed", item.variants[0].uuid, "aaaa"),)
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
    async with scene.slots.taken("capture"):
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
    monkeypatch.setattr(leftovers, "end_all", emptied.append)
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
    assert scene.told() == [("cold", "StoreFailed", "", "")]


async def test_a_failure_is_told_even_when_it_cannot_be_recorded(scene, restoring, tmp_path):
    def lose():
        os.unlink(tmp_path / "signals/journal/uid-1.json")
        os.rmdir(tmp_path / "signals/journal")
        raise errors.CriuError("boom")

    restoring(lose)
    await scene.start(checkpoints=[scene.artifact()])
    assert await scene.init.read("failed") == "failed CriuFailed boom"


async def test_a_restored_worker_is_on_probation(scene, restoring):
    """From before chrek-init hears of it: the record of the restore never just vanishes."""
    restoring()
    item = scene.artifact()
    await scene.start(checkpoints=[item])
    record = scene.journal.get("uid-1")
    assert (record.state, record.uuid) == ("restored", item.variants[0].uuid)
    assert (record.variant, record.container) == ("aaaa", "c" * 64)


async def test_a_worker_that_died_on_probation_starts_cold(scene, restoring):
    calls = restoring()
    item = scene.artifact()
    uuid = item.variants[0].uuid
    await scene.start(checkpoints=[item])
    scene.agent()
    dead = msgspec.structs.replace(POD, exits={"c" * 64: 1})
    await scene.start(pod=dead, checkpoints=[item], container="d" * 64)
    line = await scene.init.read("cold")
    assert line.startswith("cold PreviousRestoreFailed the last restore in this pod failed: Worker")
    assert len(calls) == 1
    # The pod stays what the operator counts, whichever of the two reports it sees.
    assert scene.told()[1:] == [
        ("unhealthy", "WorkerDied", uuid, "aaaa"),
        ("unhealthy", "PreviousRestoreFailed", uuid, "aaaa"),
    ]


async def test_a_worker_that_ended_well_is_restored_again(scene, restoring):
    calls = restoring()
    item = scene.artifact()
    await scene.start(checkpoints=[item])
    ended = msgspec.structs.replace(POD, exits={"c" * 64: 0})
    await scene.start(pod=ended, checkpoints=[item], container="d" * 64)
    assert len(calls) == 2


async def test_a_deletion_that_was_there_first(scene, restoring):
    """Known before CRIU starts, whatever was prepared meanwhile."""
    criu = []
    restoring(lambda: criu.append("started"))
    scene.marks.outcome = errors.ArtifactError("x", reason=names.Reason.BEING_DELETED)
    scene.marks.delay = 0.05
    await scene.start(checkpoints=[scene.artifact()])
    assert await scene.init.read("failed") == "failed BeingDeleted x"
    assert criu == []
    assert scene.marks.left == [("ns", projected.HASH)]


async def test_criu_starts_when_the_mark_is_there(scene, restoring):
    scene.marks.delay = 0.05
    seen = []
    restoring(lambda: seen.extend(scene.marks.readers))
    await scene.start(checkpoints=[scene.artifact()])
    assert seen == [("ns", projected.HASH)]


WAKE = {"http": {"port": 8000, "path": "/wake_up"}}


async def test_a_restored_worker_is_woken(scene, restoring, process):
    """Before chrek-init is told that it runs."""
    restoring()
    pod = msgspec.structs.replace(POD, ip="10.0.0.7")
    await scene.start(pod=pod, checkpoints=[scene.artifact(wake=WAKE)])
    assert await scene.init.read("restored") == "restored"
    assert scene.woken == [(WAKE, "10.0.0.7", process.pid, "WakeFailed", "restoring")]


async def test_an_address_that_the_api_server_does_not_know_yet(scene, restoring, monkeypatch):
    restoring()
    monkeypatch.setattr(procfs, "addresses", lambda pid: ["10.0.0.8", "fd00::8"])
    await scene.start(checkpoints=[scene.artifact(wake=WAKE)])
    assert scene.woken[0][1] == "10.0.0.8"


async def test_a_worker_that_does_not_wake_was_not_restored(scene, restoring):
    restoring()
    item = scene.artifact(wake=WAKE)
    scene.wake_outcome = errors.ChrekError("500", reason=names.Reason.WAKE_FAILED)
    pod = msgspec.structs.replace(POD, ip="10.0.0.7")
    await scene.start(pod=pod, checkpoints=[item])
    assert await scene.init.read("failed") == "failed WakeFailed 500"
    assert not any(line and line.startswith("restored") for line in scene.init.lines)
    assert scene.told() == [("failed", "WakeFailed", item.variants[0].uuid, "aaaa")]
    assert scene.journal.get("uid-1").state == "failed"
