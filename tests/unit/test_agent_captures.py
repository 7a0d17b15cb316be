"""A checkpoint job, with a chrek-init on the other end; only the dump itself is replaced."""

import asyncio
import json
import os
import subprocess

import msgspec
import pytest

from chrek import checkpoint, config, errors, gpustate, leftovers, names, procfs, storage
from chrek.agent import captures, capturing, decision, journal, namings, objects, slots
from chrek.criu import service
from fakes import projected

JOB = msgspec.structs.replace(
    projected.POD,
    checkpoint="",
    owner_job="checkpoint-0123",
    capture={"checkpoint": "llm", "readiness": "auto"},
)
LLM = projected.checkpoint(job="checkpoint-0123", phase="Creating", variants=())


class Scene:
    def __init__(self, path, process):
        self.process = process
        self.settings = config.AgentConfig(
            apiVersion="chrek.nvidia.com/v1alpha1",
            release="chrek",
            watchNamespaces=["ns"],
            storage=config.Storage(pvc=config.Pvc(basePath=str(path / "checkpoints"))),
            readyTimeoutSeconds=60,
        )
        self.volume = path / "volume"
        self.volume.mkdir()
        self.signals = path / "signals"
        self.reporter = projected.Reporter()
        self.init = projected.Init(process.pid)
        self.pod = JOB
        (self.worker,) = procfs.children(process.pid)

    def capturing(self):
        kept = storage.Storage(self.settings.storage, "chrek", transfer_seconds=1)
        return capturing.Capturing(
            *(self.settings, "node-1", kept, self.reporter, slots.Slots(1)),
            journal.Results(self.signals),
        )

    async def serve(self, *checkpoints):
        made = captures.Captures(self.settings, self.capturing())
        directory = os.open(self.volume, os.O_RDONLY)
        try:
            async with asyncio.timeout(5):
                await made.handle(
                    self.init.conn, self.init.peer, lambda: self.pod, list(checkpoints), directory
                )
        finally:
            os.close(directory)

    async def started(self, *checkpoints):
        """Begin, and answer as far as the worker's start."""
        task = asyncio.ensure_future(self.serve(*checkpoints))
        assert await self.init.read() == "capture"
        await self.init.say(f"started {self.worker}")
        return task

    def ready(self):
        (self.volume / "ready-for-checkpoint").touch()


@pytest.fixture
async def scene(tmp_path, monkeypatch):
    monkeypatch.setattr(capturing, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(captures, "_SERVING_POLL_SECONDS", 0.01)
    monkeypatch.setattr(namings, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(captures, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(service, "set_last_pid", lambda pidfd, number: None)
    argv = ["sh", "-c", "sleep 60 & echo; wait"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as made:
        assert made.stdout.readline() == b"\n"
        scene = Scene(tmp_path, made)
        yield scene
        scene.init.close()
        for pid in (scene.worker, made.pid):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue


@pytest.fixture
def dumping(monkeypatch):
    """Replaces the dump by outcomes, one for each attempt; returns the requests."""

    def use(*outcomes):
        requests, left = [], list(outcomes)

        def capture(wanted, store, logger, *, gpus, on_committed, on_resumed):
            requests.append(wanted)
            outcome = left.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            if wanted.leave_running:
                on_resumed()
            done = checkpoint.Captured(manifest=projected.described("u-1"), digest="sha256:9")
            on_committed(done)
            return done

        monkeypatch.setattr(checkpoint, "capture", capture)
        return requests

    return use


async def test_a_job_that_is_captured(scene, dumping):
    requests = dumping("captured")
    task = await scene.started(LLM)
    await asyncio.sleep(0.05)
    assert not requests
    scene.ready()
    assert await scene.init.read() == "dumping"
    assert await scene.init.read() == "committed"
    await task
    (wanted,) = requests
    assert (wanted.init_pid, wanted.root_pid) == (scene.process.pid, scene.worker)
    assert (wanted.identity_hash, wanted.variant) == (projected.HASH, "aaaa")
    assert wanted.environment == {"A": "1"}
    (result,) = scene.reporter.results
    assert json.loads(json.dumps(result)) == {
        "uuid": "u-1",
        "variant": "aaaa",
        "digest": "sha256:9",
        "location": str(scene.volume.parent / "checkpoints/ns/ns" / projected.HASH),
        "bytes": 0,
        "node": "node-1",
        "image": "llm:1",
        "gpu": "",
        "steps": {"dump": 1.0, "files": 0.5},
        "createdAt": "2026-01-01T00:00:00Z",
    }
    assert scene.reporter.told[0][:3] == ("p", "Normal", "Checkpointed")


async def test_readiness_by_probe(scene, dumping):
    requests = dumping("captured")
    scene.pod = msgspec.structs.replace(JOB, has_readiness_probe=True)
    task = await scene.started(LLM)
    scene.ready()
    await asyncio.sleep(0.05)
    assert not requests
    scene.pod = msgspec.structs.replace(scene.pod, ready=True)
    assert await scene.init.read("committed")
    await task


async def test_readiness_by_file_although_there_is_a_probe(scene, dumping):
    dumping("captured")
    capture = {"checkpoint": "llm", "readiness": "file"}
    scene.pod = msgspec.structs.replace(JOB, has_readiness_probe=True, ready=True, capture=capture)
    task = await scene.started(LLM)
    await asyncio.sleep(0.05)
    scene.ready()
    assert await scene.init.read("committed")
    await task


async def test_a_dump_is_tried_again(scene, dumping):
    requests = dumping(errors.CriuError("busy"), errors.StoreError("full"), "captured")
    scene.ready()
    task = await scene.started(LLM)
    assert await scene.init.read("committed")
    await task
    assert len(requests) == 3
    assert scene.init.lines[1:] == [
        *("dumping", "resumed CriuFailed busy", "dumping", "resumed StoreFailed full"),
        *("dumping", "committed"),
    ]
    assert len(scene.reporter.results) == 1


FAILURES = [
    (errors.CriuError("criu dump failed", log="the log"), 3, "CriuFailed"),
    (errors.StoreError("full"), 3, "StoreFailed"),
    (ValueError("a bug"), 1, "InternalError"),
    (
        errors.UnsupportedError("no room", reason="InsufficientHostMemory"),
        *(1, "InsufficientHostMemory"),
    ),
    (errors.GpuError("late", reason="GpuLockTimeout"), 3, "GpuLockTimeout"),
    (errors.GpuError("IPC", reason="GpuStateUnsupported"), 1, "GpuStateUnsupported"),
]


@pytest.mark.parametrize(("error", "attempts", "reason"), FAILURES, ids=range(len(FAILURES)))
async def test_a_dump_that_fails_for_good(scene, dumping, error, attempts, reason):
    requests = dumping(*[error] * 3)
    scene.ready()
    task = await scene.started(LLM)
    assert await scene.init.read("failed") == f"failed {reason} {error}"
    await task
    assert len(requests) == attempts
    assert scene.reporter.results == [{"reason": reason, "message": str(error)}]
    assert scene.reporter.told == [("p", "Warning", reason, str(error))]


REFUSED = {
    "no request": (msgspec.structs.replace(JOB, capture={"x": "y"}), [LLM], "(none named)"),
    "an unknown checkpoint": (JOB, [], "of DynamoCheckpoint llm"),
    "of another namespace": (
        JOB,
        [msgspec.structs.replace(LLM, namespace="elsewhere")],
        "of DynamoCheckpoint llm",
    ),
    "of another job": (
        JOB,
        [projected.checkpoint(job="checkpoint-other")],
        "of DynamoCheckpoint llm",
    ),
    "of no job yet": (
        msgspec.structs.replace(JOB, owner_job=""),
        [projected.checkpoint()],
        "of DynamoCheckpoint llm",
    ),
}


@pytest.mark.parametrize(("pod", "there", "message"), REFUSED.values(), ids=list(REFUSED))
async def test_pods_that_are_no_checkpoint_job(scene, dumping, pod, there, message):
    """Whoever may create pods can label one so."""
    requests = dumping()
    scene.pod = pod
    await scene.serve(*there)
    line = await scene.init.read()
    assert line.startswith("failed PeerRefused pod p is no checkpoint job")
    assert message in line
    assert not requests


@pytest.mark.parametrize("line", ["started", "started x", "stopped 7", "", "started -1"])
async def test_a_line_that_is_not_expected(scene, dumping, line):
    dumping()
    task = asyncio.ensure_future(scene.serve(LLM))
    assert await scene.init.read() == "capture"
    await scene.init.say(line)
    assert (await scene.init.read()).startswith("failed PeerRefused expected `started <pid>`")
    await task


async def test_a_process_that_is_not_its_child(scene, dumping):
    dumping()
    task = asyncio.ensure_future(scene.serve(LLM))
    assert await scene.init.read() == "capture"
    await scene.init.say(f"started {os.getpid()}")
    assert (await scene.init.read()).startswith("failed PeerRefused process")
    await task


async def test_a_job_whose_worker_never_gets_ready(scene, dumping):
    dumping()
    scene.settings = msgspec.structs.replace(scene.settings, readyTimeoutSeconds=0)
    task = await scene.started(LLM)
    assert (await scene.init.read()).startswith("failed ReadyTimeout the worker was not ready")
    await task
    assert scene.reporter.results[0]["reason"] == names.Reason.READY_TIMEOUT


GONE = ["before the answer", "while it gets ready", "with its pod", "at once"]


@pytest.mark.parametrize("when", GONE)
async def test_a_job_that_ends_by_itself_is_no_failure_of_ours(scene, dumping, when):
    """Its own exit code is what counts: nothing is reported, the Job tries again."""
    requests = dumping()
    if when == "before the answer":
        task = asyncio.ensure_future(scene.serve(LLM))
        assert await scene.init.read() == "capture"
        scene.init.hang_up()
    elif when == "at once":
        task = asyncio.ensure_future(scene.serve(LLM))
        assert await scene.init.read() == "capture"
        os.kill(scene.worker, 9)
        scene.process.wait()
        await scene.init.say(f"started {scene.worker}")
        scene.init.hang_up()
    else:
        task = await scene.started(LLM)
        await asyncio.sleep(0.03)
        if when == "with its pod":
            scene.pod = None
        else:
            scene.init.hang_up()
    await task
    assert not requests
    assert scene.reporter.results == []
    assert scene.reporter.told == []


async def test_a_container_that_ends_during_the_dump(scene, dumping):
    dumping(errors.CriuError("criu died"))
    scene.ready()
    task = await scene.started(LLM)
    assert await scene.init.read() == "dumping"
    for pid in (scene.worker, scene.process.pid):
        os.kill(pid, 9)
    scene.process.wait()
    await task
    assert scene.reporter.results == []


async def test_an_api_server_that_refuses_the_failure(scene, dumping):
    dumping(*[errors.CriuError("x")] * 3)
    scene.reporter.refuse = errors.ApiError("gone", status=404)
    scene.ready()
    task = await scene.started(LLM)
    assert await scene.init.read("failed") == "failed CriuFailed x"
    await task


async def test_the_pids_of_workers_begin_where_probes_never_are(scene, dumping, monkeypatch):
    asked = []
    monkeypatch.setattr(service, "set_last_pid", lambda *arguments: asked.append(arguments))
    task = await scene.started(LLM)
    scene.pod = None
    await task
    assert asked == [(scene.init.peer.pidfd, names.FIRST_WORKER_PID)]


WORKER = msgspec.structs.replace(projected.POD, ready=True)
COLD = decision.Cold("CheckpointNotReady", "it is being made")
NAMED = projected.checkpoint(
    phase="Creating",
    variants=(),
    captures=(objects.Capture("aaaa", "Creating", "", frozenset({"uid-1"})),),
)


class Serving:
    """A worker that is started with `serve`, as far as its start."""

    def __init__(self, scene, *checkpoints, pod=WORKER):
        self.scene = scene
        self.checkpoints = list(checkpoints)
        scene.pod = pod
        self.capturing = scene.capturing()
        self.made = captures.Captures(scene.settings, self.capturing)
        self.task = None

    async def start(self, cold=COLD):
        scene = self.scene
        self.task = asyncio.ensure_future(
            self.made.serve(
                *(scene.init.conn, scene.init.peer, lambda: scene.pod),
                *(lambda: self.checkpoints, cold),
            )
        )
        if cold:
            assert await scene.init.read() == "serve CheckpointNotReady it is being made"
        await scene.init.say(f"started {scene.worker}")

    async def end(self):
        self.scene.init.hang_up()
        async with asyncio.timeout(5):
            await self.task


async def test_a_worker_that_is_captured_and_serves_on(scene, dumping):
    requests = dumping("captured", "captured")
    serving = Serving(scene, LLM)
    await serving.start()
    await asyncio.sleep(0.05)
    assert not requests
    for count in (1, 2):
        serving.checkpoints = [NAMED]
        assert [await scene.init.read() for _ in range(2)] == ["dumping", "resumed"]
        assert await scene.init.read() == "committed"
        await asyncio.sleep(0.05)
        # Once for each time that it is named.
        assert len(requests) == count
        serving.checkpoints = [LLM]
        await asyncio.sleep(0.05)
    assert requests[0].leave_running
    assert requests[0].root_pid == scene.worker
    assert requests[0].identity_hash == projected.HASH
    assert [r["uuid"] for r in scene.reporter.results] == ["u-1", "u-1"]
    assert "the worker was frozen for 1.5 s" in scene.reporter.told[0][3]
    await serving.end()


async def test_a_worker_is_captured_only_when_it_is_ready(scene, dumping):
    requests = dumping("captured")
    serving = Serving(scene, NAMED, pod=msgspec.structs.replace(WORKER, ready=False))
    await serving.start()
    scene.ready()
    await asyncio.sleep(0.05)
    assert not requests
    scene.pod = WORKER
    assert await scene.init.read("committed")
    await serving.end()


@pytest.mark.parametrize("error", [None, errors.GpuError("the driver does not answer")])
async def test_a_worker_that_serves_since_before_the_agent(scene, dumping, monkeypatch, error):
    """Its connections and GPUs may be as an agent left them that was killed."""
    released = []

    def release(root_pid, gpus, logger):
        released.append((root_pid, gpus))
        if error is not None:
            raise error

    monkeypatch.setattr(leftovers, "clear", released.append)
    monkeypatch.setattr(gpustate, "release", release)
    dumping("captured")
    serving = Serving(scene, NAMED)
    await serving.start(cold=None)
    assert await scene.init.read("committed")
    assert released == [scene.worker, (scene.worker, None)]
    await serving.end()


NOT_NAMED = {
    "of a job": objects.Capture("aaaa", "Creating", "a-job", frozenset({"uid-1"})),
    "failed": objects.Capture("aaaa", "Failed", "", frozenset({"uid-1"})),
    "of another pod": objects.Capture("aaaa", "Creating", "", frozenset({"uid-2"})),
}


@pytest.mark.parametrize("capture", NOT_NAMED.values(), ids=list(NOT_NAMED))
async def test_captures_that_are_none_of_a_worker(scene, dumping, capture):
    requests = dumping()
    serving = Serving(scene, msgspec.structs.replace(NAMED, captures=(capture,)))
    await serving.start()
    await asyncio.sleep(0.05)
    assert not requests
    await serving.end()


async def test_a_checkpoint_of_another_namespace_names_nothing(scene, dumping):
    requests = dumping()
    serving = Serving(scene, msgspec.structs.replace(NAMED, namespace="elsewhere"))
    await serving.start()
    await asyncio.sleep(0.05)
    assert not requests
    await serving.end()


async def test_what_the_last_agent_captured_is_not_captured_again(scene, dumping):
    """It was killed after the artifact was complete, and before the API had its result."""
    requests = dumping("captured")
    result = {"uuid": "u-0", "variant": "aaaa"}
    record = journal.Result(
        namespace=WORKER.namespace, name=WORKER.name, uid=WORKER.uid, result=result
    )
    journal.Results(scene.signals).put(WORKER.uid, record)
    serving = Serving(scene, NAMED)
    await serving.start(cold=None)
    await serving.capturing.tell_recovered()
    assert scene.reporter.results == [result]
    assert not journal.Results(scene.signals).items()
    await asyncio.sleep(0.1)
    assert not requests
    # Named anew, it is captured.
    serving.checkpoints = []
    await asyncio.sleep(0.05)
    serving.checkpoints = [NAMED]
    assert await scene.init.read() == "dumping"
    await serving.end()


async def test_a_result_that_the_api_is_not_told_of_is_kept(scene, dumping):
    dumping("captured")
    scene.reporter.refuse = errors.ApiError("no answer")
    task = await scene.started(LLM)
    scene.ready()
    for word in ("dumping", "committed"):
        assert await scene.init.read() == word
    await task
    ((uid, found),) = journal.Results(scene.signals).items()
    assert (uid, found.result["uuid"], found.name) == (JOB.uid, "u-1", "p")
    # A pod that is gone needs none.
    scene.reporter.refuse = errors.ApiError("gone", status=404)
    await scene.capturing().tell_recovered()
    assert not journal.Results(scene.signals).items()


async def test_a_worker_whose_capture_fails_serves_on(scene, dumping):
    requests = dumping(errors.CriuError("busy"), errors.UnsupportedError("never"), "captured")
    serving = Serving(scene, NAMED)
    await serving.start()
    assert await scene.init.read("resumed") == "resumed CriuFailed busy"
    assert await scene.init.read("resumed") == "resumed Unsupported never"
    await asyncio.sleep(0.05)
    assert len(requests) == 2
    assert scene.reporter.results == [{"reason": "Unsupported", "message": "never"}]
    assert not serving.task.done()
    serving.checkpoints = []
    await asyncio.sleep(0.05)
    serving.checkpoints = [NAMED]
    assert await scene.init.read("committed")
    await serving.end()


async def test_a_pid_namespace_that_cannot_be_prepared_starts_cold(scene, monkeypatch):
    def refuse(pidfd, number):
        raise errors.ToolError("setns")

    monkeypatch.setattr(service, "set_last_pid", refuse)
    serving = Serving(scene, NAMED)
    task = asyncio.ensure_future(
        serving.made.serve(
            *(scene.init.conn, scene.init.peer, lambda: scene.pod), *(lambda: [], COLD)
        )
    )
    assert await scene.init.read() == "cold CheckpointNotReady it is being made"
    await task


@pytest.mark.parametrize("when", ["before the answer", "while it serves", "with its pod"])
async def test_a_worker_that_ends(scene, dumping, when):
    dumping()
    serving = Serving(scene, LLM)
    if when == "before the answer":
        serving.task = asyncio.ensure_future(
            serving.made.serve(
                *(scene.init.conn, scene.init.peer, lambda: scene.pod), *(lambda: [], COLD)
            )
        )
        assert await scene.init.read("serve")
    else:
        await serving.start()
    if when == "with its pod":
        scene.pod = None
    await serving.end()
    assert scene.reporter.results == []


async def test_a_named_pod_that_was_started_cold(scene, dumping, monkeypatch):
    monkeypatch.setattr(captures, "REFUSAL_SECONDS", 0.05)
    dumping(*["captured"] * 3)

    def refused():
        return [r for r in scene.reporter.results if "uuid" not in r]

    serving = Serving(scene, NAMED)
    other = msgspec.structs.replace(WORKER, uid="uid-2", name="q")
    unready = msgspec.structs.replace(WORKER, uid="uid-3", name="r", ready=False)
    both = frozenset({"uid-1", "uid-2", "uid-3", "of another node"})
    named = [
        msgspec.structs.replace(NAMED, captures=(objects.Capture("aaaa", "Creating", "", both),))
    ]
    pods = {"uid-1": WORKER, "uid-2": other, "uid-3": unready}
    await serving.start()
    refusing = asyncio.ensure_future(serving.made.refuse_others(pods, lambda: named))
    await asyncio.sleep(0.2)
    (result,) = refused()
    assert result["reason"] == names.Reason.NOT_CAPTURABLE
    assert "pod q was not started so" in result["message"]
    # Named once more it is answered for once more.
    named.clear()
    await asyncio.sleep(0.05)
    named.append(NAMED)
    named[0] = msgspec.structs.replace(
        NAMED, captures=(objects.Capture("aaaa", "Creating", "", frozenset({"uid-2"})),)
    )
    await asyncio.sleep(0.2)
    assert len(refused()) == 2
    refusing.cancel()
    await serving.end()


WITH_SECRET = msgspec.structs.replace(JOB, secret_variables=("TOKEN",))
REQUIRED = config.EnvFromSecrets.REQUIRE_ACKNOWLEDGEMENT
ACKNOWLEDGED = {
    "by the pod": ({"secrets_acknowledged": True}, {}),
    "by the checkpoint": ({}, {"secrets_acknowledged": True}),
    "there are none": ({"secret_variables": ()}, {}),
}


async def test_secrets_that_are_not_acknowledged(scene, dumping):
    requests = dumping()
    scene.settings = msgspec.structs.replace(scene.settings, envFromSecrets=REQUIRED)
    scene.pod = WITH_SECRET
    task = await scene.started(LLM)
    scene.ready()
    assert (await scene.init.read()).startswith("failed SecretsNotAcknowledged ")
    await task
    assert not requests
    (result,) = scene.reporter.results
    assert result["reason"] == "SecretsNotAcknowledged"
    assert "TOKEN" in result["message"]


@pytest.mark.parametrize(("pod", "checkpoint_"), ACKNOWLEDGED.values(), ids=list(ACKNOWLEDGED))
async def test_secrets_that_are_acknowledged(scene, dumping, pod, checkpoint_):
    requests = dumping("captured")
    scene.settings = msgspec.structs.replace(scene.settings, envFromSecrets=REQUIRED)
    scene.pod = msgspec.structs.replace(WITH_SECRET, **pod)
    task = await scene.started(msgspec.structs.replace(LLM, **checkpoint_))
    scene.ready()
    assert await scene.init.read("committed") == "committed"
    await task
    assert len(requests) == 1
