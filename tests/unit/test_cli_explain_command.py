"""`chrek explain` as a person meets it."""

import json

import jsonschema
import pytest
import yaml
from click import testing

from chrek import cli, errors
from chrek.cli import records
from fakes import api_server, warm

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    return lambda *arguments: testing.CliRunner().invoke(cli.main, ["explain", *arguments])


def fields(text):
    """Label -> value of a screen, and its first line."""
    head, *lines = text.splitlines()
    pairs = [line.partition("  ") for line in lines if line and not line.startswith(" ")]
    return head, {label: value.strip() for label, _, value in pairs}


def test_a_warm_pod(api, run):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod(start=warm.restored())])
    result = run("llm-1")
    assert result.exit_code == 0, result.output
    head, shown = fields(result.stdout)
    assert head == "pod llm-1 in namespace team was restored: it started warm"
    assert shown["why"].startswith("restored 1.40 GB of checkpoint")
    assert shown["asked for"] == f"checkpoint llama, variant {warm.artifact()['name']}"
    assert shown["checkpoint"].startswith(f"llama ({warm.HASH}) is Ready, made ")
    assert "1.3Gi, captured" in shown["artifact"]
    assert shown["artifact"].endswith("on node n1")
    assert shown["steps"] == "in the agent's log, which this shows:"
    assert "  kubectl logs -n team -l app.kubernetes.io/part-of=chrek" in result.stdout
    assert "do" not in shown


def test_steps_of_the_annotation(api, run):
    start = warm.restored(steps={"criu": 0.95, "fetch": 0.2})
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod(start=start)])
    result = run("llm-1")
    assert fields(result.stdout)[1]["steps"] == "criu 0.95 s, fetch 0.20 s; together 1.15 s"
    assert "kubectl logs" not in result.stdout


def test_a_cold_pod_on_one_screen(api, run):
    start = warm.cold("ImageDiffers", "image: captured llama:1, here llama:2", uuid=warm.UUID)
    warm.cluster(
        api, warm.checkpoint(), pods=[warm.pod(start=start, container={"image": "llama:2"})]
    )
    api.add(warm.EVENTS, warm.event("ImageDiffers", "image: captured llama:1, here llama:2"))
    result = run("llm-1")
    head, shown = fields(result.stdout)
    assert head == "pod llm-1 in namespace team started cold: ImageDiffers"
    assert shown["differs"] == "image: captured llama:1, here llama:2"
    assert "`chrek retry llama -n team`" in shown["do"]
    assert "Warning ImageDiffers: image" in shown["event"]
    assert len(result.stdout.splitlines()) <= 24


def test_a_pod_that_nobody_manages(api, run):
    pod = warm.pod(wanted=None, injected=False, **warm.of_deployment())
    warm.cluster(api, warm.checkpoint(), pods=[pod])
    result = run("llm-1")
    head, shown = fields(result.stdout)
    assert head == "pod llm-1 in namespace team is not managed by chrek"
    assert shown["missing"].startswith("nobody asked for a warm start")
    assert "  kubectl patch deployment llm -n team --type merge -p '" in result.stdout


def test_chrek_init_in_the_log(api, run):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod()])
    api.texts[f"{warm.PODS}/llm-1/log"] = (
        b"chrek: Falling back to cold start: AgentUnavailable: no agent within 20 s\n"
    )
    head, shown = fields(run("llm-1").stdout)
    assert head.endswith("started cold: AgentUnavailable")
    assert shown["read from"].startswith("chrek-init's line in the container's log")


def test_events_of_other_pods_are_none_of_it(api, run):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod(start=warm.restored())])
    earlier = warm.event("AgentBusy")
    earlier["involvedObject"]["uid"] = "of an earlier pod of this name"
    api.add(warm.EVENTS, earlier)
    api.add(warm.EVENTS, warm.event("AgentBusy", about="other"))
    assert "event" not in fields(run("llm-1").stdout)[1]


def test_the_newest_pod_of_a_workload(api, run):
    later = {"creationTimestamp": "2026-01-29T11:00:00Z"}
    busy = warm.pod("old-1", start=warm.cold("AgentBusy"))
    warm.cluster(
        api,
        warm.checkpoint(),
        pods=[warm.pod("new", start=warm.restored(), metadata=later), busy, warm.pod("old-2")],
    )
    api.add(warm.DEPLOYMENTS, warm.deployment())
    text = run("deployment/llm").stdout
    assert text.startswith("pod new in namespace team was restored")
    assert text.endswith(
        "\n\nother pods: 1 cold (AgentBusy), 1 unknown; --all-pods explains each\n"
    )
    every = run("deploy/llm", "--all-pods").stdout
    assert every.count("in namespace team") == 3
    document = json.loads(run("deploy/llm", "-o", "json").stdout)
    assert document["workload"] == "deployment/llm"
    assert [one["name"] for one in document["pods"]] == ["new"]
    assert document["others"][0] == {"name": "old-1", "outcome": "cold", "reason": "AgentBusy"}


SCREENS = {
    "restored": warm.pod(start=warm.restored()),
    "cold": warm.pod(start=warm.cold("ImageDiffers", uuid=warm.UUID), container={"image": "x"}),
    "failed": warm.pod(start={"outcome": "failed", "reason": "CriuFailed", "message": "m"}),
    "unhealthy": warm.pod(start={"outcome": "unhealthy", "reason": "WorkerDied", "message": "m"}),
    "skipped": warm.pod(
        injected=False, annotations={"nvidia.com/chrek-skipped": "HostNamespace: hostPID"}
    ),
    "unmanaged": warm.pod(wanted=None, injected=False),
    "source": warm.pod(labels={"nvidia.com/chrek-is-checkpoint-source": "true"}),
    "pending": warm.pod(status={"phase": "Pending"}),
    "unknown": warm.pod(),
}


@pytest.mark.parametrize("outcome", SCREENS)
def test_every_outcome_as_data_and_for_a_person(api, run, outcome):
    entry = {"variant": warm.artifact()["name"], "phase": "Creating", "reason": "Capturing"}
    warm.cluster(api, warm.checkpoint(captures=[entry]), pods=[SCREENS[outcome]])
    api.add(warm.EVENTS, warm.event("AgentBusy", component="chrek-operator"))
    document = json.loads(run("llm-1", "-o", "json").stdout)
    jsonschema.validate(document, records.schema("explain"))
    assert document["pods"][0]["outcome"] == outcome
    assert yaml.safe_load(run("llm-1", "-o", "yaml").stdout) == document
    text = run("llm-1").stdout
    assert text.startswith("pod llm-1 in namespace team ")
    assert len(text.splitlines()) <= 24
    assert run("llm-1", "-o", "name").stdout == "pod/llm-1\n"


def test_what_may_not_be_looked_at_is_a_note(api, run):
    warm.cluster(api, pods=[warm.pod(start=warm.restored())])
    for path in (warm.EVENTS, warm.WEBHOOKS, warm.CHECKPOINTS):
        api.refuse("GET", path, status=403, message="forbidden")
    api.refuse("GET", warm.PODS, status=403, message="forbidden")
    result = run("llm-1")
    assert result.exit_code == 0, result.output
    notes = [line for line in result.stdout.splitlines() if line.startswith("note")]
    assert len(notes) == 4
    assert "you may not list dynamocheckpoints.nvidia.com in namespace team" in notes[0]


def test_missing_crds_are_a_note(api, run):
    warm.cluster(api, pods=[warm.pod(wanted=None, injected=False)])
    api.refuse("GET", warm.CHECKPOINTS, status=404, message="not found")
    assert "chrek's CRDs are not installed" in fields(run("llm-1").stdout)[1]["note"]


def test_a_graph_that_may_not_be_read(api, run):
    labels = {"nvidia.com/dynamo-graph-deployment-name": "g", "nvidia.com/dynamo-component": "w"}
    warm.cluster(api, pods=[warm.pod(wanted=None, injected=False, labels=labels)])
    result = run("llm-1")
    assert "service w has no checkpoint section" in result.stdout
    api.refuse("GET", f"{warm.GRAPHS}/g", status=403, message="forbidden")
    assert "you may not get dynamographdeployments" in run("llm-1").stdout


def test_a_pod_that_is_not_there(run):
    result = run("llm-1")
    assert result.exit_code == errors.InputError.exit_code
    assert (
        "error: there is no pod llm-1 in namespace team\n  hint: kubectl get pods" in result.stderr
    )


def test_a_pod_that_may_not_be_read(api, run):
    api.refuse("GET", f"{warm.PODS}/llm-1", status=403, message="forbidden")
    result = run("llm-1")
    assert result.exit_code == errors.ApiError.exit_code
    assert result.stderr.startswith("error: you may not get pods in namespace team\n")
