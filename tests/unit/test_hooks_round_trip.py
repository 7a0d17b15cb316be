"""The test that Helm runs, against a cluster that does what the operator and the agent would do."""

import threading

import pytest

from chrek import errors
from chrek.hooks import counter, round_trip
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
WORKER = {"containers": [{"name": "main", "image": "chrek:1"}]}
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "test", "uid": "1"}


class Cluster:
    """Plays operator, webhook and agent; `faults` says what goes wrong."""

    def __init__(self, api, **faults):
        self.api = api
        self.faults = faults
        self.deleted = []
        api.on_create = self.created

    def created(self, path, body):
        if path == release.CHECKPOINTS:
            self.checkpoint(body)
        elif path == release.PODS:
            self.pod(body)

    def checkpoint(self, body):
        if "checkpoint" in self.faults:
            body["status"] = {"phase": "Failed", "message": self.faults["checkpoint"]}
            return
        job = f"checkpoint-{body['metadata']['name']}"
        labels = {"batch.kubernetes.io/job-name": job}
        status = {"phase": "Running", "podIP": "127.0.0.1"}
        self.api.add(release.PODS, {"status": status}, name="source", labels=labels)

        def become_ready():
            counter.Handler.went.wait(5)
            variants = [{"node": "n1"}]
            body["status"] = {"phase": "Ready", "size": "9 MiB", "variants": variants}

        threading.Thread(target=become_ready, daemon=True).start()

    def pod(self, body):
        if "skipped" in self.faults:
            body["metadata"]["annotations"]["nvidia.com/chrek-skipped"] = self.faults["skipped"]
        if "webhook" not in self.faults:
            body["metadata"]["labels"] = {"nvidia.com/chrek-managed": "true"}
        if "nonce" in self.faults:
            counter.Handler.nonce = self.faults["nonce"]
        if "count" in self.faults:
            counter.Handler.count = self.faults["count"]
        body["spec"] = {**body["spec"], "nodeName": "n2"}
        reason = self.faults.get("cold", "Restored")
        restored = {"type": "nvidia.com/Restored", "reason": reason, "message": "because"}
        restored["status"] = "False" if "cold" in self.faults else "True"
        conditions = [{"type": "Ready", "status": "True"}]
        if "log" in self.faults:
            self.api.texts[f"{release.PODS}/{body['metadata']['name']}/log"] = self.faults["log"]
        else:
            conditions.append(restored)
        body["status"] = {"podIP": "127.0.0.1", "conditions": conditions}


class Handler(counter.Handler):
    """Tells the cluster when the worker was told to go."""

    def do_POST(self):  # noqa: N802 - http.server's name
        super().do_POST()
        counter.Handler.went.set()


@pytest.fixture
def api(monkeypatch):
    for key, value in (("nonce", "a" * 32), ("count", 0), ("ready", False)):
        monkeypatch.setattr(counter.Handler, key, value)
    monkeypatch.setattr(counter.Handler, "went", threading.Event(), raising=False)
    with api_server.ApiServer() as server, counter.Server(0) as worker:
        worker.RequestHandlerClass = Handler
        monkeypatch.setattr(counter, "PORT", worker.server_port)
        threading.Thread(target=worker.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        worker.shutdown()


def trip(api, *, timeout=10.0):
    return round_trip.RoundTrip(
        release.connect(api), WORKER, namespace="team", timeout_seconds=timeout, owner=OWNER
    )


def left(api):
    return [p for p in api.objects if p.startswith((release.CHECKPOINTS, release.PODS + "/chrek"))]


def test_memory_comes_back(api):
    Cluster(api)
    found = trip(api)
    found.run()
    table = list(found.table())
    assert [line.split("  ")[0] for line in table] == [
        "capture: worker answers",
        "capture: checkpoint ready",
        "restore: pod restored",
        "restore: memory compared",
        "restore: pod ready",
    ]
    assert "9 MiB on node n1" in table[1]
    assert "on node n2" in table[2]
    assert left(api) == []


def test_everything_is_owned_by_the_test(api):
    Cluster(api)
    trip(api).run()
    made = [(path, body) for method, path, _, body in api.requests if method == "POST"]
    assert [path for path, _ in made] == [release.CHECKPOINTS, release.PODS]
    assert all(body["metadata"]["ownerReferences"] == [OWNER] for _, body in made)
    checkpoint, pod = (body for _, body in made)
    name = checkpoint["metadata"]["name"]
    assert pod["metadata"]["annotations"] == {"nvidia.com/chrek-checkpoint": name}
    # What is captured and what is restored are one worker, or the variant differs.
    assert (
        checkpoint["spec"]["job"]["podTemplateSpec"]["spec"]["containers"] == WORKER["containers"]
    )


def test_two_runs_never_share_a_checkpoint(api):
    assert trip(api)._hash != trip(api)._hash


@pytest.mark.parametrize(
    ("faults", "reason", "message"),
    [
        ({"cold": "CriuFailed"}, "CriuFailed", "the pod started cold: CriuFailed: because"),
        (
            {"log": b"chrek: Falling back to cold start: AgentSilent: no answer in 20 s\n"},
            "AgentSilent",
            "the pod started cold: AgentSilent: no answer in 20 s",
        ),
        ({"nonce": "b" * 32}, "InternalError", "another process answers: its nonce is bbbbbbbb"),
        ({"count": -5}, "InternalError", "the counter went from 2 to -4"),
        ({"webhook": False}, "InternalError", "admitted without the webhook"),
        ({"skipped": "HostNamespace: hostPID"}, "InternalError", "HostNamespace: hostPID"),
        ({"checkpoint": "CriuFailed: x"}, "JobFailed", "the capture failed: CriuFailed: x"),
    ],
)
def test_a_broken_restore_fails_with_its_reason(api, faults, reason, message):
    Cluster(api, **faults)
    found = trip(api)
    with pytest.raises(errors.ChrekError) as caught:
        found.run()
    assert message in str(caught.value)
    assert caught.value.reason == reason
    assert list(found.table())[-1].endswith("FAILED")
    assert left(api) == []


def test_time_is_over(api):
    with pytest.raises(errors.ChrekError, match="at the end for the checkpoint job's worker"):
        trip(api, timeout=0.3).run()


def test_what_cannot_be_deleted_is_named(api, capsys):
    Cluster(api, cold="CriuFailed")
    found = trip(api)
    path = f"{release.CHECKPOINTS}/{found._hash}"
    api.refuse("DELETE", path, status=403, message="forbidden")
    with pytest.raises(errors.ChrekError, match="CriuFailed"):
        found.run()
    assert f"could not delete {path}" in capsys.readouterr().out
