"""The test that Helm runs, against a cluster that does what the operator and the agent would do."""

import contextlib
import os
import pathlib
import signal
import threading

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from chrek import errors
from chrek.hooks import counter, round_trip, trip_gpu
from fakes import agents as fake_agents
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
WORKER = {
    "metadata": {"labels": {"mesh": "off"}},
    "spec": {"containers": [{"name": "main", "image": "chrek:1"}]},
}
GPU_WORKER = {
    "metadata": {"labels": {"mesh": "off"}},
    "spec": {
        "containers": [
            {
                "name": "main",
                "image": "chrek:1",
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
            }
        ]
    },
}
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "test", "uid": "1"}
WARM, COLD, GPU = "127.0.0.1", "127.0.0.2", "127.0.0.3"
"""Where the captured worker answers, which is also the restored one; the one that was not; and the
one with memory on a GPU, captured and restored as well."""


class Cluster:
    """Plays operator, webhook and agent; `faults` says what goes wrong."""

    def __init__(self, api, workers, *, node="n2", agents=("n1", "n2"), storage="pvc", **faults):
        self.api = api
        self.workers = workers
        self.node = node
        self.storage = storage
        self.faults = faults
        self.released = threading.Event()
        workers[WARM].went = self.released
        api.on_create = self.created
        for agent in agents:
            # Nothing listens on port 1.
            release.agent(api, agent, ready=True, port=1)

    def created(self, path, body):
        if path == release.CHECKPOINTS:
            self.checkpoint(body)
        elif path == release.PODS:
            self.pod(body)

    def checkpoint(self, body):
        template = body["spec"]["job"]["podTemplateSpec"]
        if "resources" in template["spec"]["containers"][0]:
            self.gpu_checkpoint(body)
            return
        if "checkpoint" in self.faults:
            body["status"] = {"phase": "Failed", "message": self.faults["checkpoint"]}
            return
        job = f"checkpoint-{body['metadata']['name']}"
        labels = {"batch.kubernetes.io/job-name": job}
        status = {"phase": "Running", "podIP": WARM}
        self.api.add(release.PODS, {"status": status}, name="source", labels=labels)

        def become_ready():
            self.released.wait(5)
            body["status"] = {
                "phase": "Ready",
                "size": "9 MiB",
                "variants": [{"node": "n1"}],
                "storageType": self.storage,
                "location": "there/it/is",
            }

        threading.Thread(target=become_ready, daemon=True).start()

    def gpu_checkpoint(self, body):
        pod = {"status": {"phase": "Running", "podIP": GPU}, "spec": {"nodeName": "n1"}}
        if "no gpu" in self.faults:
            waits = {"type": "PodScheduled", "status": "False", "message": "Insufficient gpu."}
            pod = {"status": {"phase": "Pending", "conditions": [waits]}, "spec": {}}
        labels = {"batch.kubernetes.io/job-name": f"checkpoint-{body['metadata']['name']}"}
        self.api.add(release.PODS, pod, name="gpu-source", labels=labels)
        body["status"] = {"phase": "Ready", "size": "1 GiB", "variants": [{"node": "n1"}]}
        if "gpu checkpoint" in self.faults:
            body["status"] = {"phase": "Failed", "message": self.faults["gpu checkpoint"]}

    def pod(self, body):
        metadata = body["metadata"]
        if "skipped" in self.faults:
            metadata["annotations"]["nvidia.com/chrek-skipped"] = self.faults["skipped"]
        if "webhook" not in self.faults:
            metadata.setdefault("labels", {})["nvidia.com/chrek-managed"] = "true"
        if metadata["name"].startswith("chrek-round-trip-cold-"):
            body["spec"] = {**body["spec"], "nodeName": "n1"}
            body["status"] = self.cold(metadata["name"])
        elif metadata["name"].startswith("chrek-round-trip-gpu-"):
            body["spec"] = {**body["spec"], "nodeName": self.node}
            body["status"] = status(GPU, restored=True, reason="Restored")
        else:
            body["spec"] = {**body["spec"], "nodeName": self.node}
            body["status"] = self.restored(metadata["name"])

    def restored(self, name):
        change = self.faults.get("restore", lambda state: None)
        change(self.workers[WARM].state)
        if "log" in self.faults:
            self.api.texts[f"{release.PODS}/{name}/log"] = self.faults["log"]
            return status(WARM)
        reason = self.faults.get("cold", "Restored")
        return status(WARM, restored="cold" not in self.faults, reason=reason, message="because")

    def cold(self, name):
        if "cold pod restored" in self.faults:
            return status(COLD, restored=True, reason="Restored")
        if "cold nonce" in self.faults:
            self.workers[COLD].state.nonce = self.workers[WARM].state.nonce
        found = status(COLD, restored=False, reason="CheckpointNotFound", message=f"no {name}")
        if "cold pod silent" in self.faults:
            del found["conditions"][1]
        return found


def status(address, *, restored=None, reason="", message=""):
    conditions = [{"type": "Ready", "status": "True"}]
    if restored is not None:
        said = {"type": "nvidia.com/Restored", "reason": reason, "message": message}
        conditions.append({**said, "status": str(restored)})
    return {"podIP": address, "phase": "Running", "conditions": conditions}


class Handler(counter.Handler):
    """Tells the cluster when the worker was told to go."""

    def do_POST(self):  # noqa: N802 - http.server's name
        super().do_POST()
        self.server.went.set()


class GpuHandler(Handler):
    """Knows the memory of a GPU."""

    asked = 0

    def do_GET(self):  # noqa: N802 - http.server's name
        if self.path != "/gpu":
            super().do_GET()
            return
        GpuHandler.asked += 1
        said = {"uuid": "GPU-0123456789", "count": self.asked, "digest": "d" * 64, "bytes": 1 << 26}
        self.answer(200, said)


class GpuServer(counter.Server):
    handler = GpuHandler


@pytest.fixture
def workers(monkeypatch, tmp_path):
    """The processes, by address; they have one port, as pods would."""
    with contextlib.ExitStack() as stack:
        found = {}
        for address in (WARM, COLD, GPU):
            place = tmp_path / address
            place.mkdir()
            port = found[WARM].server_port if found else 0
            state = counter.State([str(place)])
            kind = GpuServer if address == GPU else counter.Server
            worker = stack.enter_context(kind(port, state, host=address))
            worker.RequestHandlerClass = GpuHandler if address == GPU else Handler
            worker.went = threading.Event()
            threading.Thread(target=worker.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(worker.shutdown)
            found[address] = worker
        found[WARM].state.nonce, found[COLD].state.nonce = "a" * 32, "c" * 32
        monkeypatch.setattr(counter, "PORT", found[WARM].server_port)
        yield found


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def trip(api, *, timeout=10.0, owner=OWNER, **options):
    return round_trip.RoundTrip(
        release.connect(api),
        WORKER,
        config=release.config(),
        namespace="team",
        timeout_seconds=timeout,
        owner=owner,
        **{"gpu_worker": GPU_WORKER, **options},
    )


@pytest.fixture
def with_gpus():
    """Agents of n1 and n2 that see GPUs."""
    detail = "driver 580.65.06 (CUDA 13.0), GPUs: 8 NVIDIA H100 80GB HBM3"
    said = fake_agents.preflight(checks=[fake_agents.check("gpu", detail=detail)])
    with fake_agents.Agent(said) as agent:

        def made(api):
            for node in ("n1", "n2"):
                release.agent(api, node, ready=True, port=agent.port)

        yield made


def left(api):
    ours = (release.CHECKPOINTS, f"{release.PODS}/chrek-round-trip")
    return [path for path in api.objects if path.startswith(ours)]


def rows(found):
    """The table as step -> the rest of the line."""
    lines = list(found.table())[1:]
    width = max(line.find("  ") for line in lines)
    return {line[:width].strip(): line[width:].strip() for line in lines}


def made(api):
    """What the test created: (path, body)."""
    return [(path, body) for method, path, _, body in api.requests if method == "POST"]


def preferred(spec):
    terms = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    return {t["preference"]["matchFields"][0]["values"][0]: t["weight"] for t in terms}


def test_memory_and_files_come_back(api, workers):
    Cluster(api, workers)
    found = trip(api)
    found.run()
    table = rows(found)
    assert list(table) == [
        "capture: worker answers",
        "capture: checkpoint ready",
        "restore: pod restored",
        "restore: memory compared",
        "restore: files compared",
        "restore: pod ready",
        "cold: pod ready",
        "nodes",
        "store",
        "gpu",
    ]
    assert "nonce aaaaaaaa, count 2, 8 MiB" in table["capture: worker answers"]
    assert "9 MiB on node n1" in table["capture: checkpoint ready"]
    assert "on node n2" in table["restore: pod restored"]
    assert "nonce aaaaaaaa, count 3, 8 MiB" in table["restore: memory compared"]
    assert (
        f"2 in {pathlib.Path(workers[WARM].state.files._paths[0]).parent}"
        in (table["restore: files compared"])
    )
    assert "CheckpointNotFound on node n1, nonce cccccccc" in table["cold: pod ready"]
    assert table["nodes"] == "two: captured on n1, restored on n2"
    assert table["store"] == "pvc there/it/is, read from the volume"
    assert table["gpu"] == "not tested: no agent tells of GPUs"
    assert left(api) == []


def test_everything_is_owned_by_the_test(api, workers):
    Cluster(api, workers)
    trip(api).run()
    paths = [path for path, _ in made(api)]
    assert sorted(paths) == [release.PODS, release.PODS, release.CHECKPOINTS]
    assert all(body["metadata"]["ownerReferences"] == [OWNER] for _, body in made(api))


def test_what_is_captured_and_what_is_restored_are_one_worker(api, workers):
    """Or the variant differs; and a mesh keeps out of both."""
    Cluster(api, workers)
    trip(api).run()
    checkpoint = next(body for path, body in made(api) if path == release.CHECKPOINTS)
    name = checkpoint["metadata"]["name"]
    by_checkpoint = {
        body["metadata"]["annotations"]["nvidia.com/chrek-checkpoint"]: body
        for path, body in made(api)
        if path == release.PODS
    }
    warm = by_checkpoint.pop(name)
    ((asked, cold),) = by_checkpoint.items()
    assert asked == cold["metadata"]["name"]
    template = checkpoint["spec"]["job"]["podTemplateSpec"]
    for pod in (template, warm, cold):
        assert pod["spec"]["containers"] == WORKER["spec"]["containers"]
        assert pod["metadata"]["labels"]["mesh"] == "off"
    assert preferred(template["spec"]) == {"n1": 100, "n2": 100}
    assert preferred(warm["spec"]) == {"n2": 100, "n1": 25}


def test_without_an_owner_things_are_deleted_all_the_same(api, workers):
    Cluster(api, workers)
    trip(api, owner=None).run()
    assert all(body["metadata"]["ownerReferences"] == [] for _, body in made(api))
    assert left(api) == []


def test_two_runs_never_share_a_checkpoint(api):
    assert trip(api)._checkpoint.hash != trip(api)._checkpoint.hash


@pytest.mark.parametrize(
    ("agents", "where"),
    [
        (["n1"], "one: n1; no other has a ready agent"),
        (["n1", "n2"], "one: n1; the scheduler did not take n2"),
    ],
)
def test_one_node_will_do(api, workers, agents, where):
    Cluster(api, workers, node="n1", agents=agents)
    found = trip(api)
    found.run()
    assert rows(found)["nodes"] == where


def test_a_store_on_a_server(api, workers):
    Cluster(api, workers, storage="s3")
    found = trip(api)
    found.run()
    assert rows(found)["store"] == "s3 there/it/is, fetched from the server"


def test_agents_tell_why_no_gpu_is_tested(api, workers):
    said = fake_agents.preflight(checks=[fake_agents.check("gpu", detail="no NVIDIA driver")])
    with fake_agents.Agent(said) as agent:
        Cluster(api, workers)
        release.agent(api, "n1", ready=True, port=agent.port)
        found = trip(api)
        assert found.run() == ["memory", "files"]
    assert rows(found)["gpu"] == "not tested: no NVIDIA driver"
    assert len(made(api)) == 3


def test_gpu_memory_comes_back_where_agents_see_gpus(api, workers, with_gpus):
    Cluster(api, workers)
    with_gpus(api)
    found = trip(api)
    assert found.run() == ["memory", "files", "GPU memory"]
    table = rows(found)
    steps = ["worker answers", "checkpoint ready", "pod restored", "memory compared"]
    assert [*table][7:] == [*(f"gpu: {step}" for step in steps), "nodes", "store", "gpu"]
    assert table["gpu"] == (
        "64 MiB came back, captured on n1 (GPU-01234567), restored on n2 (GPU-01234567)"
    )
    checkpoints = [body for path, body in made(api) if path == release.CHECKPOINTS]
    assert len({body["metadata"]["name"] for body in checkpoints}) == 2
    pods = [body for path, body in made(api) if path == release.PODS]
    asked = [pod["spec"]["containers"][0].get("resources") for pod in pods]
    assert sorted(map(bool, asked)) == [False, False, True]
    assert all(body["metadata"]["ownerReferences"] == [OWNER] for _, body in made(api))
    assert left(api) == []


def test_a_gpu_that_is_not_free_keeps_nothing_from_passing(api, workers, with_gpus, monkeypatch):
    monkeypatch.setattr(trip_gpu, "SCHEDULE_SECONDS", 0.3)
    Cluster(api, workers, **{"no gpu": True})
    with_gpus(api)
    found = trip(api)
    assert found.run() == ["memory", "files"]
    assert rows(found)["gpu"].startswith("not tested: no GPU within 0 s: Insufficient gpu (see")
    assert left(api) == []


def test_a_gpu_that_is_needed_must_be_there(api, workers):
    Cluster(api, workers)
    found = trip(api, gpu_needed=True)
    with pytest.raises(errors.ChrekError, match="no GPU was tested: no agent tells of GPUs"):
        found.run()
    table = rows(found)
    assert table["gpu"] == "not tested: no agent tells of GPUs"
    assert "restore: pod ready" in table, "all else was tested"
    assert not any("FAILED" in note or "given up" in note for note in table.values())
    assert left(api) == []


def test_gpu_memory_that_does_not_come_back_is_a_failure_of_its_own(api, workers, with_gpus):
    Cluster(api, workers, **{"gpu checkpoint": "GpuCheckpointFailed: x"})
    with_gpus(api)
    found = trip(api)
    with pytest.raises(errors.ChrekError, match="the capture failed: GpuCheckpointFailed: x"):
        found.run()
    table = rows(found)
    assert table["gpu"] == "FAILED: JobFailed"
    assert "count 3" in table["restore: memory compared"]
    assert "nonce" in table["cold: pod ready"]
    assert left(api) == []


def test_another_failure_ends_the_gpu_s_part(api, workers, with_gpus):
    Cluster(api, workers, cold="CriuFailed", **{"no gpu": True})
    with_gpus(api)
    found = trip(api)
    with pytest.raises(errors.ChrekError, match="CriuFailed"):
        found.run()
    assert rows(found)["gpu"] == "given up"
    assert left(api) == []


def test_no_gpu_is_asked_for_where_the_values_say_never(api, workers, with_gpus):
    Cluster(api, workers)
    with_gpus(api)
    found = trip(api, gpu_worker=None)
    assert found.run() == ["memory", "files"]
    assert rows(found)["gpu"] == "not tested: tests.gpu.when is never"


def other_nonce(state):
    state.nonce = "b" * 32


def older_memory(state):
    state.count = -5


def other_ballast(state):
    state.ballast = bytes(len(state.ballast))


def other_file(state):
    state.files._paths[0].write_bytes(b"other")


def lost_file(state):
    state.files._paths[0].unlink()


@pytest.mark.parametrize(
    ("faults", "step", "reason", "message"),
    [
        (
            {"cold": "CriuFailed"},
            "restore: pod restored",
            "CriuFailed",
            "the pod started cold: CriuFailed: because",
        ),
        (
            {"log": b"chrek: Falling back to cold start: AgentSilent: no answer in 20 s\n"},
            "restore: pod restored",
            "AgentSilent",
            "the pod started cold: AgentSilent: no answer in 20 s",
        ),
        (
            {"restore": other_nonce},
            "restore: memory compared",
            "InternalError",
            "another process answers: its nonce is bbbbbbbb",
        ),
        (
            {"restore": older_memory},
            "restore: memory compared",
            "InternalError",
            "the counter went from 2 to -4",
        ),
        (
            {"restore": other_ballast},
            "restore: memory compared",
            "InternalError",
            "memory changed: 8388608 bytes had the digest",
        ),
        ({"restore": other_file}, "restore: files compared", "InternalError", "files changed: /"),
        (
            {"restore": lost_file},
            "restore: files compared",
            "InternalError",
            "now it cannot be read: [Errno 2] No such file",
        ),
        ({"webhook": False}, "cold: pod ready", "InternalError", "admitted without the webhook"),
        (
            {"skipped": "HostNamespace: hostPID"},
            "cold: pod ready",
            "InternalError",
            "HostNamespace: hostPID",
        ),
        (
            {"cold pod restored": True},
            "cold: pod ready",
            "InternalError",
            "says that it was restored, from a checkpoint that does not exist",
        ),
        (
            {"checkpoint": "CriuFailed: x"},
            "capture: worker answers",
            "JobFailed",
            "the capture failed: CriuFailed: x",
        ),
    ],
)
def test_what_is_broken_fails_with_its_reason(api, workers, faults, step, reason, message):
    Cluster(api, workers, **faults)
    found = trip(api)
    with pytest.raises(errors.ChrekError) as caught:
        found.run()
    assert message in str(caught.value)
    assert caught.value.reason == reason
    table = rows(found)
    assert table[step].endswith(f"FAILED: {reason}")
    assert left(api) == []


def test_memory_that_was_not_asked_for(api, workers):
    Cluster(api, workers, **{"cold nonce": True})
    with pytest.raises(errors.ChrekError, match="without a checkpoint has the nonce aaaaaaaa of"):
        trip(api).run()
    assert left(api) == []


def test_a_cold_pod_must_say_why(api, workers):
    Cluster(api, workers, **{"cold pod silent": True})
    found = trip(api, timeout=2)
    with pytest.raises(errors.ChrekError, match="for the pod without a checkpoint to say how it"):
        found.run()
    assert rows(found)["cold: pod ready"].endswith("FAILED: RestoreTimeout")
    assert "restore: pod ready" in rows(found)


def test_files_that_cannot_be_written_are_no_fault_of_the_restore(api, workers):
    workers[WARM].state.files.problems["/tmp/x"] = "Read-only file system"
    Cluster(api, workers)
    with pytest.raises(errors.ChrekError, match="could not write its files: Read-only"):
        trip(api).run()


def test_time_is_over(api):
    api.on_create = lambda _, body: (
        body["metadata"].setdefault("labels", {}).update({"nvidia.com/chrek-managed": "true"})
    )
    with pytest.raises(errors.ChrekError, match=r"waited 0 s in all, at the end for the"):
        trip(api, timeout=0.3).run()


def test_what_cannot_be_deleted_is_named(api, workers, capsys):
    Cluster(api, workers, cold="CriuFailed")
    found = trip(api)
    path = f"{release.CHECKPOINTS}/{found._checkpoint.hash}"
    api.refuse("DELETE", path, status=403, message="forbidden")
    with pytest.raises(errors.ChrekError, match="CriuFailed"):
        found.run()
    assert f"could not delete {path}" in capsys.readouterr().out


@pytest.fixture
def invoke(api, tmp_path, monkeypatch):
    """Runs the program as the pod of a namespace."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    (tmp_path / "worker.yaml").write_text(yaml.safe_dump(WORKER))
    config = msgspec.to_builtins(release.config())
    (tmp_path / "release.yaml").write_text(yaml.safe_dump(config))
    files = [f"--{name}={tmp_path / name}.yaml" for name in ("worker", "release")]
    before = signal.getsignal(signal.SIGTERM)

    def run(namespace):
        for key, value in (("POD_NAME", "test"), ("POD_UID", "1"), ("POD_NAMESPACE", namespace)):
            monkeypatch.setenv(key, value)
        return CliRunner().invoke(round_trip.main, ["--namespace=team", *files, "--timeout=10"])

    yield run
    signal.signal(signal.SIGTERM, before)


def test_the_program_prints_the_table_and_a_last_line(api, workers, invoke):
    Cluster(api, workers)
    said = invoke("team")
    lines = said.output.splitlines()
    assert said.exit_code == 0, said.output
    assert lines[0].split() == ["step", "seconds", "note"]
    assert lines[-1].startswith("round-trip: passed: memory and files came back")
    assert all(body["metadata"]["ownerReferences"] == [OWNER] for _, body in made(api))


def test_a_test_of_another_namespace_owns_nothing(api, workers, invoke):
    Cluster(api, workers, cold="CriuFailed")
    said = invoke("chrek")
    assert said.exit_code != 0
    assert "\nround-trip: the pod started cold: CriuFailed: because (see" in said.output
    assert all(body["metadata"]["ownerReferences"] == [] for _, body in made(api))
    assert left(api) == []


def test_a_test_that_is_ended_leaves_nothing(api, workers, invoke):
    cluster = Cluster(api, workers)

    def end(path, body):
        cluster.created(path, body)
        if body["metadata"]["name"].startswith("chrek-round-trip-"):
            body["status"] = {}
            os.kill(os.getpid(), signal.SIGTERM)

    api.on_create = end
    said = invoke("chrek")
    assert said.exit_code != 0
    assert "\nround-trip: the test's pod was asked to end" in said.output
    assert left(api) == []
