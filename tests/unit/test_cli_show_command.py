"""`chrek show` as a person meets it."""

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

FAILED = {
    "variant": "abc",
    "phase": "Failed",
    "reason": "CriuFailed",
    "message": "criu dump: exit status 1",
    "image": "llama:2",
    "jobName": "job-1",
    "pods": [{"name": "p1", "uid": "u"}, {"name": "p2", "uid": "v"}],
}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    return lambda *arguments: testing.CliRunner().invoke(cli.main, ["show", *arguments])


def fields(text):
    pairs = [line.partition("  ") for line in text.split("\n\n")[0].splitlines()[1:]]
    return {label: value.strip() for label, _, value in pairs}


@pytest.mark.parametrize("reference", ["llama", warm.HASH])
def test_a_checkpoint(api, run, reference):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod()])
    result = run(reference)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("llama in namespace team: Ready\n")
    shown = fields(result.stdout)
    assert shown["why"] == "Checkpointed: captured on node n1, 1.3Gi"
    assert shown["identity"] == "model meta-llama/Llama-3-8B, backendFramework vllm"
    assert shown["captured from"] == "job: a pod of its own"
    assert shown["stored"] == f"pvc /checkpoints/{warm.HASH}"
    assert shown["on deletion"] == "Delete the artifacts"
    assert shown["users"] == "pod/llm-1"
    assert shown["last used"] == "never"
    head, *lines = result.stdout.split("\n\n")[1].splitlines()
    assert head == f"artifact {warm.artifact()['name']}/{warm.UUID}: used for new pods"
    (steps,) = [line for line in lines if line.lstrip().startswith("steps")]
    assert steps.endswith("dump 1.20 s, digest 0.40 s, sync 0.30 s, files 0.01 s; together 1.91 s")
    assert "█" not in result.stdout


def test_the_timeline(api, run):
    warm.cluster(api, warm.checkpoint())
    lines = run("llama", "--timeline").stdout.splitlines()
    names = [line.split()[0] for line in lines if line[-1:] in "█▏▎▍▌▋▊▉" and line]
    assert names == ["preflight", "dump", "files", "digest", "sync"]
    assert max(map(len, lines)) <= 100


def test_a_timeline_without_steps(api, run):
    warm.cluster(api, warm.checkpoint(variants=[warm.artifact(steps={})]))
    assert "  no steps were noted" in run("llama", "--timeline").stdout


def test_one_that_failed(api, run):
    warm.cluster(api, warm.checkpoint(phase="Failed", captures=[FAILED]))
    text = run("llama").stdout
    assert text.startswith("llama in namespace team: Failed\n")
    assert "CRIU's own words" in fields(text)["do"]
    capture = text.split("\n\n")[1]
    assert capture.startswith("capture of variant abc: Failed\n")
    assert "CriuFailed: criu dump: exit status 1" in capture
    assert "job-1" in capture
    assert "p1, p2" in capture


def test_one_that_is_suspect(api, run):
    made = warm.artifact(suspect=True, failures=["a", "b", "c"], gpu="2x NVIDIA H100")
    warm.cluster(api, warm.checkpoint(variants=[made]))
    text = run("llama").stdout
    assert ": suspect, not used\n" in text
    assert "in 3 pods the restored worker died or hung" in text
    assert "2x NVIDIA H100" in text


def test_one_without_artifacts(api, run):
    item = warm.checkpoint(phase="Pending", worker=True)
    item["spec"]["identity"] = {**warm.IDENTITY, "extraParameters": {"a": "b"}}
    item["status"] = {}
    warm.cluster(api, item)
    shown = fields(run("llama").stdout)
    assert shown["captured from"].startswith("worker: a serving pod")
    assert shown["identity"].endswith("extraParameters {a: b}")
    assert shown["artifacts"] == "<none>"
    assert shown["users"] == "nobody"


def test_one_that_shares_and_one_that_goes(api, run):
    newer = warm.checkpoint("b", creationTimestamp="2026-01-30T00:00:00Z")
    going = warm.checkpoint("c", deletionTimestamp=warm.T0)
    warm.cluster(api, warm.checkpoint(), newer, going)
    assert fields(run("b").stdout)["shares with"] == "llama, which is older and has the artifacts"
    assert fields(run("c").stdout)["deleting"].startswith("yes")
    assert "shares with" not in fields(run("llama").stdout)


def test_many_users(api, run):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod(f"p{n}") for n in range(9)])
    section = {"enabled": True, "checkpointRef": "llama"}
    graph = {"spec": {"services": {"Worker": {"checkpoint": section}}}}
    api.add(warm.GRAPHS, graph, name="my-llm", namespace="team")
    users = fields(run("llama").stdout)["users"]
    assert users.endswith("pod/p5, 3 more pods, dgd/my-llm")


def test_pods_that_may_not_be_listed(api, run):
    warm.cluster(api, warm.checkpoint())
    api.refuse("GET", warm.PODS, status=403, message="forbidden")
    result = run("llama")
    assert fields(result.stdout)["users"] == "? (you may not list pods)"
    assert result.stderr == "note: you may not list pods in namespace team\n"


def test_data(api, run):
    warm.cluster(api, warm.checkpoint(captures=[FAILED]), pods=[warm.pod()])
    document = json.loads(run("llama", "-o", "json").stdout)
    jsonschema.validate(document, records.schema("show"))
    assert document["artifacts"][0]["steps"] == warm.STEPS
    assert document["captures"][0]["job"] == "job-1"
    assert yaml.safe_load(run("llama", "-o", "yaml").stdout) == document
    assert run(warm.HASH, "-o", "name").stdout == "dynamocheckpoint.nvidia.com/llama\n"


def test_one_that_is_not_there(api, run):
    warm.cluster(api, warm.checkpoint())
    result = run("x")
    assert result.exit_code == errors.InputError.exit_code
    assert "hint: there are: llama; -n names another namespace" in result.stderr
