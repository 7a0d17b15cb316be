"""The operator on a real API server, with the chart's RBAC and nothing more."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cluster import kube, operator_process

pytestmark = pytest.mark.cluster

HASH = operator_process.HASH
SOURCE = "nvidia.com/chrek-is-checkpoint-source=true"


@pytest.fixture(scope="module")
def site(
    namespaced: kube.Kube, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[operator_process.Site]:
    operator_process.install_crds(namespaced)
    made = operator_process.Site(namespaced, tmp_path_factory.mktemp("operator"))
    # Nobody runs the pods of deletion Jobs here; tests/e2e does.
    made.config["deletionJobPath"] = ""
    yield made
    made.remove()


@pytest.fixture
def clean(site: operator_process.Site) -> kube.Kube:
    """The namespace without anything of an earlier test."""
    site.kube.kubectl("delete", "dgd,dckpt,hpa", "--all", "--cascade=foreground")
    site.kube.kubectl("delete", "pods,jobs,deployments", "--all", "--grace-period=0", "--force")
    return site.kube


@pytest.fixture(scope="module")
def operator(site: operator_process.Site) -> Iterator[operator_process.Operator]:
    with operator_process.Operator(site) as made:
        yield made


def status(connected: kube.Kube, name: str, kind: str = "dckpt") -> dict[str, Any]:
    found: dict[str, Any] = connected.get(kind, name).get("status") or {}
    return found


def phase_is(connected: kube.Kube, name: str, phase: str) -> None:
    connected.wait(
        lambda: status(connected, name).get("phase") == phase, f"{name} is {phase}", seconds=20
    )


def pod_of_job(connected: kube.Kube) -> str:
    connected.wait(lambda: bool(operator_process.items(connected, "pods", SOURCE)), "a pod")
    return str(operator_process.items(connected, "pods", SOURCE)[-1]["metadata"]["name"])


def finish(connected: kube.Kube, pod: str, result: dict[str, Any] | None, phase: str) -> None:
    """What the agent writes and what the kubelet reports."""
    if result is not None:
        text = json.dumps(result)
        connected.kubectl("annotate", "pod", pod, f"nvidia.com/chrek-result={text}")
    patch = json.dumps({"status": {"phase": phase}})
    connected.kubectl("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", patch)


def reasons(connected: kube.Kube, name: str) -> list[str]:
    """Reasons of the Events about an object, oldest first."""
    found = operator_process.items(connected, "events.events.k8s.io")
    about = [event for event in found if event["regarding"]["name"] == name]
    return [e["reason"] for e in sorted(about, key=lambda e: str(e["eventTime"]))]


def test_auto_mode_from_graph_to_ready(clean: kube.Kube, operator: object) -> None:
    clean.apply(operator_process.graph("my-llm", {"identity": operator_process.IDENTITY}))
    clean.wait(lambda: "checkpoint" in clean.kubectl("get", "jobs"), "a job")
    deployment = clean.get("deployment", "my-llm-vllmworker")
    template = deployment["spec"]["template"]
    assert template["metadata"]["annotations"]["nvidia.com/chrek-checkpoint"] == HASH
    assert template["spec"]["containers"][0]["command"] == ["/bin/sh", "-c"]
    phase_is(clean, HASH, "Creating")
    assert not status(clean, "my-llm", "dgd")["services"]["VllmWorker"]["ready"]
    finish(clean, pod_of_job(clean), operator_process.RESULT, "Succeeded")
    phase_is(clean, HASH, "Ready")
    made = status(clean, HASH)
    assert made["location"] == f"/checkpoints/{HASH}"
    assert made["variants"][0]["digest"] == "b3:00"
    header, row = clean.kubectl("get", "dckpt", HASH).splitlines()
    assert header.split() == ["NAME", "MODEL", "BACKEND", "PHASE", "HASH", "AGE"]
    assert row.split()[:5] == [HASH, "meta-llama/Llama-3-8B", "vllm", "Ready", HASH]
    clean.wait(
        lambda: status(clean, "my-llm", "dgd")["services"]["VllmWorker"]["ready"],
        "the graph knows",
    )
    assert reasons(clean, HASH) == ["Checkpointed"]


def test_writes_stop_when_nothing_happens(clean: kube.Kube, operator: object) -> None:
    clean.apply(operator_process.graph("my-llm", {"identity": operator_process.IDENTITY}))
    phase_is(clean, HASH, "Creating")

    def versions() -> list[str]:
        kinds = "dgd,dckpt,deployments,jobs"
        found = operator_process.items(clean, kinds)
        return sorted(f"{o['kind']} {o['metadata']['resourceVersion']}" for o in found)

    time.sleep(2)
    before = versions()
    time.sleep(4)
    assert versions() == before
    own = operator_process.items(clean, "dgd,dckpt,deployments")
    assert not any(o["metadata"].get("finalizers") for o in own)


def test_reference_by_name_before_the_checkpoint_exists(clean: kube.Kube, operator: object) -> None:
    wanted = operator_process.graph("my-llm", {"checkpointRef": "by-name"}, args=[])
    clean.apply(wanted)
    name = "my-llm-vllmworker"
    clean.wait(lambda: name in clean.kubectl("get", "deployments"), "a deployment")
    annotations = clean.get("deployment", name)["spec"]["template"]["metadata"]["annotations"]
    assert annotations["nvidia.com/chrek-skipped"].startswith("CommandUnknown: ")
    clean.wait(
        lambda: (
            "waiting for DynamoCheckpoint by-name" in json.dumps(status(clean, "my-llm", "dgd"))
        ),
        "the graph says what it waits for",
    )
    assert "CheckpointNotFound" in reasons(clean, "my-llm")
    clean.apply(operator_process.checkpoint("by-name"))

    def injected() -> bool:
        template = clean.get("deployment", name)["spec"]["template"]
        asked = template["metadata"]["annotations"].get("nvidia.com/chrek-checkpoint")
        return asked == "by-name" and template["spec"]["containers"][0]["command"][0] == "python3"

    clean.wait(injected, "the deployment has the checkpoint's command")
    clean.wait(
        lambda: (
            status(clean, "my-llm", "dgd")["services"]["VllmWorker"].get("identityHash") == HASH
        ),
        "the graph knows the hash",
    )


def test_reference_by_hash(clean: kube.Kube, operator: object) -> None:
    clean.apply(operator_process.checkpoint("any-name"))
    phase_is(clean, "any-name", "Creating")
    clean.apply(operator_process.graph("my-llm", {"checkpointRef": HASH}))
    clean.wait(
        lambda: (
            (status(clean, "my-llm", "dgd").get("services") or {})
            .get("VllmWorker", {})
            .get("checkpointName")
            == "any-name"
        ),
        "the graph finds it by its hash",
    )


def test_graphs_of_one_identity_share_a_checkpoint(clean: kube.Kube, operator: object) -> None:
    section = {"identity": operator_process.IDENTITY}
    older = {"model": "meta-llama/Llama-3-8B", "framework": "vllm", "dtype": "bfloat16"}
    clean.apply(
        *(operator_process.graph(f"graph-{number}", section) for number in range(4)),
        operator_process.graph("older-names", {"mode": "Auto", "identity": older}),
    )
    phase_is(clean, HASH, "Creating")
    clean.wait(lambda: len(operator_process.items(clean, "deployments")) == 5, "deployments")
    assert len(operator_process.items(clean, "dckpt")) == 1
    assert len(operator_process.items(clean, "jobs")) == 1


def test_a_second_checkpoint_of_one_identity_shares_the_artifact(
    clean: kube.Kube, operator: object
) -> None:
    clean.apply(operator_process.checkpoint("first"))
    phase_is(clean, "first", "Creating")
    time.sleep(1)
    clean.apply(operator_process.checkpoint("second"))
    phase_is(clean, "second", "Creating")
    finish(clean, pod_of_job(clean), operator_process.RESULT, "Succeeded")
    phase_is(clean, "second", "Ready")
    one, other = status(clean, "first"), status(clean, "second")
    assert one["variants"] == other["variants"]
    assert {c["type"] for c in other["conditions"]} == {"Ready", "SharedWith"}
    assert len(operator_process.items(clean, "jobs")) == 1
    clean.kubectl("delete", "dckpt", "first")
    clean.wait(
        lambda: {c["type"] for c in status(clean, "second")["conditions"]} == {"Ready"},
        "the second is on its own",
    )
    assert status(clean, "second")["phase"] == "Ready"


def test_a_failed_job_and_a_corrected_spec(clean: kube.Kube, operator: object) -> None:
    clean.apply(operator_process.checkpoint("c", backoffLimit=0))
    phase_is(clean, "c", "Creating")
    failure = {"reason": "CriuFailed", "message": "criu dump: exit status 1"}
    finish(clean, pod_of_job(clean), failure, "Failed")
    phase_is(clean, "c", "Failed")
    made = status(clean, "c")
    assert made["message"].startswith("criu dump: exit status 1 (BackoffLimitExceeded")
    assert made["conditions"][0]["reason"] == "CriuFailed"
    first = operator_process.items(clean, "jobs")[0]["metadata"]["uid"]
    clean.apply(operator_process.checkpoint("c", backoffLimit=1))
    phase_is(clean, "c", "Creating")
    assert operator_process.items(clean, "jobs")[0]["metadata"]["uid"] != first


@pytest.mark.parametrize(
    ("template", "reason", "message"),
    [
        ({"hostNetwork": True}, "HostNamespace", "hostNetwork"),
        ({"volumes": [{"name": "x", "emptyDir": {"medium": 5}}]}, "InvalidSpec", "emptyDir"),
        ({"dnsPolicy": "Nonsense"}, "InvalidSpec", "dnsPolicy"),
        ({"containers": [{"name": "main", "image": "i"}]}, "CommandUnknown", "`command`"),
    ],
)
def test_pod_templates_that_make_no_job(
    clean: kube.Kube, operator: object, template: dict[str, Any], reason: str, message: str
) -> None:
    item = operator_process.checkpoint("bad")
    item["spec"]["job"]["podTemplateSpec"]["spec"] |= template
    clean.apply(item)
    phase_is(clean, "bad", "Failed")
    made = status(clean, "bad")
    assert made["conditions"][0]["reason"] == reason
    assert message in made["message"]
    assert reasons(clean, "bad")[-1] == reason


def test_a_service_the_api_server_refuses(clean: kube.Kube, operator: object) -> None:
    item = operator_process.graph("bad", {"identity": operator_process.IDENTITY})
    item["spec"]["services"]["VllmWorker"]["extraPodSpec"]["dnsPolicy"] = "Nonsense"
    good = operator_process.graph("good", {})["spec"]["services"]["VllmWorker"]
    item["spec"]["services"]["Good"] = {"extraPodSpec": good["extraPodSpec"]}
    clean.apply(item)
    clean.wait(
        lambda: "Unsupported value" in json.dumps(status(clean, "bad", "dgd")), "it says why"
    )
    services = status(clean, "bad", "dgd")["services"]
    assert services["VllmWorker"]["reason"] == "InvalidSpec"
    assert services["Good"]["reason"] == "WaitingForReplicas"


def test_a_graph_tells_why_its_checkpoint_failed(clean: kube.Kube, operator: object) -> None:
    item = operator_process.graph("my-llm", {"identity": operator_process.IDENTITY})
    item["spec"]["services"]["VllmWorker"]["extraPodSpec"]["shareProcessNamespace"] = True
    clean.apply(item)
    phase_is(clean, HASH, "Failed")
    clean.wait(
        lambda: (
            "the checkpoint failed: SharedProcessNamespace: shareProcessNamespace"
            in status(clean, "my-llm", "dgd")["services"]["VllmWorker"]["message"]
        ),
        "the service says why",
    )
    assert len(operator_process.items(clean, "deployments")) == 1, "it runs all the same"


def test_replicas_belong_to_the_autoscaler(clean: kube.Kube, operator: object) -> None:
    wanted = operator_process.graph("my-llm", {"identity": operator_process.IDENTITY})
    clean.apply(wanted)
    name = "my-llm-vllmworker"
    clean.wait(lambda: name in clean.kubectl("get", "deployments"), "a deployment")

    def replicas() -> int:
        return int(clean.get("deployment", name)["spec"]["replicas"])

    clean.kubectl("scale", "deployment", name, "--replicas=3")
    service = wanted["spec"]["services"]["VllmWorker"]
    service["envs"] = [{"name": "A", "value": "1"}]
    clean.apply(wanted)
    clean.wait(lambda: '"A"' in json.dumps(clean.get("deployment", name)), "the new template")
    assert replicas() == 3
    service["replicas"] = 2
    clean.apply(wanted)
    clean.wait(lambda: replicas() == 2, "the graph's own change counts")
    del wanted["spec"]["services"]["VllmWorker"]
    wanted["spec"]["services"]["Other"] = service
    clean.kubectl("replace", "-f", "-", text=json.dumps(wanted))
    clean.wait(
        lambda: (
            [d["metadata"]["name"] for d in operator_process.items(clean, "deployments")]
            == ["my-llm-other"]
        ),
        "a removed service goes",
    )


def admitted(connected: kube.Kube, spec: dict[str, Any], reference: str = HASH) -> dict[str, Any]:
    """What becomes of a pod at admission."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "w", "annotations": {"nvidia.com/chrek-checkpoint": reference}},
        "spec": spec,
    }
    words = ["create", "--dry-run=server", "-o", "json", "-f", "-"]
    made: dict[str, Any] = json.loads(connected.kubectl(*words, text=json.dumps(pod)))
    return made


def test_the_webhook_injects(clean: kube.Kube, operator: operator_process.Operator) -> None:
    made = admitted(clean, operator_process.pod_spec())
    main = made["spec"]["containers"][0]
    assert main["command"] == ["/chrek/chrek-init", "--wait", "1", "--", "python3", "s.py"]
    assert made["spec"]["initContainers"][0]["name"] == "chrek-init"
    assert made["metadata"]["labels"]["nvidia.com/chrek-managed"] == "true"
    clean.apply(operator_process.checkpoint("by-name"))
    phase_is(clean, "by-name", "Creating")
    finish(clean, pod_of_job(clean), operator_process.RESULT, "Succeeded")
    phase_is(clean, "by-name", "Ready")
    for reference in ("by-name", HASH):
        main = admitted(clean, operator_process.pod_spec(), reference)["spec"]["containers"][0]
        assert main["command"][1:3] == ["--wait", "20"]
        env = {variable["name"]: variable.get("value") for variable in main["env"]}
        assert env["DYN_CHECKPOINT_HASH"] == HASH
    seconds, count = (
        float(line.split()[-1])
        for name in ("sum", "count")
        for line in operator.answers("/metrics")[1].splitlines()
        if line.startswith(f"chrek_operator_admission_seconds_{name}")
    )
    assert seconds / count < 0.05


def test_the_webhook_denies_nothing(clean: kube.Kube, operator: object) -> None:
    made = admitted(clean, {**operator_process.pod_spec(), "hostPID": True})
    assert made["metadata"]["annotations"]["nvidia.com/chrek-skipped"].startswith("HostNamespace: ")
    assert "initContainers" not in made["spec"]


def test_a_skipped_pod_gets_an_event(clean: kube.Kube, operator: object) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "skipped", "annotations": {"nvidia.com/chrek-checkpoint": HASH}},
        "spec": {**operator_process.pod_spec(), "shareProcessNamespace": True},
    }
    clean.apply(pod)
    clean.wait(lambda: "SharedProcessNamespace" in reasons(clean, "skipped"), "an event on the pod")


def test_an_operator_that_is_killed_again_and_again(
    clean: kube.Kube, site: operator_process.Site, operator: operator_process.Operator
) -> None:
    """Whatever was done before a kill is neither lost nor done twice."""
    operator.end(signal.SIGKILL)
    try:
        clean.apply(operator_process.graph("my-llm", {"identity": operator_process.IDENTITY}))
        lease = clean.get("lease", site.config["leaseName"])
        for pause in (0.0, 0.01, 0.03, 0.06, 0.1, 0.2):
            # The dead one's lease has to run out; the test takes it away instead.
            clean.kubectl("delete", "lease", lease["metadata"]["name"], "--ignore-not-found")
            operator.start()
            clean.wait(operator.leads, "it leads")
            time.sleep(pause)
            operator.end(signal.SIGKILL)
        clean.kubectl("delete", "lease", lease["metadata"]["name"], "--ignore-not-found")
    finally:
        operator.start()
        operator.ready()
    phase_is(clean, HASH, "Creating")
    finish(clean, pod_of_job(clean), operator_process.RESULT, "Succeeded")
    phase_is(clean, HASH, "Ready")
    for kind in ("dckpt", "jobs", "deployments"):
        assert len(operator_process.items(clean, kind)) == 1, kind
    assert len(operator_process.items(clean, "pods", SOURCE)) == 1


def test_one_leads_and_the_other_takes_over(
    clean: kube.Kube, site: operator_process.Site, operator: operator_process.Operator
) -> None:
    with operator_process.Operator(site, name="second", shift=1) as second:
        time.sleep(3)
        assert operator.leads()
        assert not second.leads(), "it only serves the webhook"
        assert operator.end(signal.SIGTERM) == 0
        clean.wait(second.leads, "the second leads without waiting for the lease", seconds=6)
        clean.apply(operator_process.checkpoint("c"))
        phase_is(clean, "c", "Creating")
        operator.start()
        operator.ready()


def test_a_replica_that_lost_the_lease_ends_at_once(
    clean: kube.Kube, site: operator_process.Site, operator: operator_process.Operator
) -> None:
    clean.wait(operator.leads, "it leads", seconds=30)
    stolen = json.dumps({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 1}})
    clean.kubectl("patch", "lease", site.config["leaseName"], "--type=merge", "-p", stolen)
    assert operator.process is not None
    assert operator.process.wait(6) == 1
    operator.start()
    operator.ready()
