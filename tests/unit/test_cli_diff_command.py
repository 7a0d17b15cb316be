"""`chrek diff` as a person meets it."""

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

DIFFERENT = errors.CompatibilityError.exit_code


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    return lambda *arguments: testing.CliRunner().invoke(cli.main, ["diff", *arguments])


def test_nothing(api, run):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod()])
    result = run("llm-1", "llama")
    assert result.exit_code == 0, result.output
    variant = warm.artifact()["name"]
    assert result.stdout.splitlines() == [
        "pod/llm-1 and dckpt/llama: nothing that matters",
        f"  artifact {variant} (llama:1) fits",
    ]


def test_by_default_what_the_pod_asks_for(api, run):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod()])
    assert run("llm-1").stdout == run("llm-1", "llama").stdout != ""


def test_a_pod_that_asks_for_none(api, run):
    plain = warm.pod()
    plain["metadata"]["annotations"] = {}
    warm.cluster(api, warm.checkpoint(), pods=[plain])
    result = run("llm-1")
    assert result.exit_code == errors.InputError.exit_code
    assert "pod/llm-1 asks for no checkpoint" in result.stderr


def test_a_checkpoint_is_compared_with_a_named_one(api, run):
    warm.cluster(api, warm.checkpoint())
    result = run("dckpt/llama")
    assert result.exit_code == 2
    assert "Name a checkpoint to compare it with." in result.stderr


def test_differences(api, run):
    main = {"image": "llama:2", "resources": {"limits": {"memory": "1Gi"}}}
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod(container=main)])
    result = run("llm-1", warm.HASH)
    assert result.exit_code == DIFFERENT
    assert result.stdout.splitlines() == [
        "pod/llm-1 and dckpt/llama: 1 difference that matters",
        "  WHAT                     REASON        DIFFERENCE",
        "  image                    ImageDiffers  captured llama:1, here llama:2",
        "  resources.limits.memory  -             captured none, here 1Gi",
        f"  artifact {warm.artifact()['name']} (llama:1) is of another image, command or GPU "
        "request",
    ]


def test_what_does_not_matter(api, run):
    main = {"resources": {"limits": {"memory": "1Gi"}}}
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod(container=main)])
    result = run("llm-1", "llama")
    assert result.exit_code == 0
    assert "resources.limits.memory" in result.stdout


def test_two_checkpoints_and_several(api, run):
    other = warm.checkpoint("other", "Failed", spec={"containers": [warm.container("llama:2")]})
    warm.cluster(api, warm.checkpoint(), other)
    result = run("llama", "llama", "other")
    assert result.exit_code == DIFFERENT
    first, second = result.stdout.split("\n\n")
    assert first.startswith("dckpt/llama and dckpt/llama: nothing that matters\n")
    assert second.startswith("dckpt/llama and dckpt/other: 1 difference that matters\n")
    assert second.endswith("  it has no artifact yet\n")


@pytest.mark.parametrize("text", ["dckpt/llama", "dynamocheckpoints.nvidia.com/llama"])
def test_a_checkpoint_that_is_called_like_a_pod(api, run, text):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod("llama", container={"image": "x"})])
    assert run("llama", "llama").stdout.startswith("pod/llama and dckpt/llama: 1 ")
    assert run(text, "llama").stdout.startswith("dckpt/llama and dckpt/llama: nothing")


def test_the_newest_pod_of_a_workload(api, run):
    api.add(warm.DEPLOYMENTS, warm.deployment())
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod()])
    assert run("deploy/llm", "llama").stdout.startswith("deployment/llm (pod/llm-1) and dckpt/")


@pytest.mark.parametrize(
    ("image", "code", "expected"),
    [
        ("llama:1", 0, "nothing that matters"),
        ("llama:3", DIFFERENT, "NoMatchingVariant  captured llama:1, here llama:3"),
    ],
)
def test_a_checkpoint_of_serving_pods(api, run, image, code, expected):
    warm.cluster(api, warm.checkpoint(worker=True), pods=[warm.pod(container={"image": image})])
    result = run("llm-1", "llama")
    assert result.exit_code == code
    assert expected in result.stdout


def test_another_command_than_that_of_a_serving_pod(api, run):
    pod = warm.pod(container={"command": ["other"]})
    warm.cluster(api, warm.checkpoint(worker=True), pods=[pod])
    assert (
        "no artifact of this image has this command and GPU request" in run("llm-1", "llama").stdout
    )


def test_a_checkpoint_of_serving_pods_that_has_none_yet(api, run):
    warm.cluster(api, warm.checkpoint(phase="Pending", worker=True), pods=[warm.pod()])
    assert run("llm-1", "llama").exit_code == 0
    result = run("dckpt/llama", "llama")
    assert result.exit_code == errors.InputError.exit_code
    assert "has no pod template" in result.stderr


def test_data(api, run):
    suspect = warm.artifact("llama:2", suspect=True)
    item = warm.checkpoint(variants=[warm.artifact(), suspect])
    warm.cluster(api, item, pods=[warm.pod(container={"image": "llama:2"})])
    result = run("llm-1", "llama", "-o", "json")
    assert result.exit_code == DIFFERENT
    document = json.loads(result.stdout)
    jsonschema.validate(document, records.schema("diff"))
    (one,) = document["comparisons"]
    assert [v["fits"] for v in one["variants"]] == [False, True]
    assert one["differences"][0]["reason"] == "ImageDiffers"
    assert yaml.safe_load(run("llm-1", "llama", "-oyaml").stdout) == document
    assert run("llm-1", "llama", "-oname").stdout == "dynamocheckpoint.nvidia.com/llama\n"
    assert "suspect: not used" in run("llm-1", "llama").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "llama"], "there is no pod x"),
        (["llm-1", "x"], "no DynamoCheckpoint of the name or hash x"),
        (["dckpt/x", "llama"], "no DynamoCheckpoint of the name or hash x"),
        (["deploy/llama", "llama"], "there is no Deployment llama"),
    ],
)
def test_what_is_not_there(api, run, arguments, message):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod()])
    result = run(*arguments)
    assert result.exit_code == errors.InputError.exit_code
    assert message in result.stderr


def test_a_pod_whose_worker_is_not_clear(api, run):
    two = [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod(injected=False, containers=two)])
    result = run("llm-1", "llama")
    assert result.exit_code == errors.UnsupportedError.exit_code
    assert "which container is the worker?" in result.stderr
