"""`chrek checkpoint` against an API server of dictionaries: what it writes, says and answers."""

import json
import signal
import subprocess
import sys

import jsonschema
import pytest
import yaml
from click import testing

from chrek import cli, errors
from chrek.cli import records, waiting
from fakes import api_server

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

HASH = "5941a4cb3c363457"
IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm", "dtype": "bfloat16"}
ASK = ["--model", "meta-llama/Llama-3-8B", "--backend", "vllm", "--dtype", "bfloat16"]
CHECKPOINTS = "/apis/nvidia.com/v1alpha1/namespaces/team/dynamocheckpoints"
DEPLOYMENTS = "/apis/apps/v1/namespaces/team/deployments"
STATEFULSETS = "/apis/apps/v1/namespaces/team/statefulsets"
OPT_IN = "nvidia.com/chrek-checkpoint"
NAME = f"dynamocheckpoint.nvidia.com/{HASH}\n"


def template(**annotations):
    container = {"name": "main", "image": "llama:1", "command": ["python3", "s.py"]}
    keys = {key.replace("_", "-"): value for key, value in annotations.items()}
    return {
        "metadata": {
            "labels": {"app": "llm"},
            "annotations": {f"nvidia.com/chrek-{key}": value for key, value in keys.items()},
        },
        "spec": {"containers": [container], "restartPolicy": "Always"},
    }


def workload(pods=None, *, kind="Deployment", **spec):
    return {"kind": kind, "spec": {"template": pods or template(), **spec}}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    """Runs `chrek checkpoint ...` as a user of namespace team."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.0)

    def call(*arguments):
        return testing.CliRunner().invoke(cli.main, ["checkpoint", *arguments])

    return call


def test_a_deployment(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    result = run("deployment/llm", *ASK)
    assert result.exit_code == 0, result.output
    made = api.objects[f"{CHECKPOINTS}/{HASH}"]
    assert made["spec"]["identity"] == IDENTITY
    pods = made["spec"]["job"]["podTemplateSpec"]
    assert pods == {"spec": {"containers": template()["spec"]["containers"]}}
    assert set(made["spec"]) == {"identity", "job"}
    assert result.stdout.splitlines() == [
        f"DynamoCheckpoint {HASH} created from deployment/llm",
        f"pods start warm when they carry the annotation {OPT_IN}={HASH} (--opt-in sets it)",
    ]
    assert api.objects[f"{DEPLOYMENTS}/llm"]["spec"]["template"] == template(), "left alone"


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("deploy/llm", DEPLOYMENTS),
        ("deployments/llm", DEPLOYMENTS),
        ("Deployment/llm", DEPLOYMENTS),
        ("deployment.apps/llm", DEPLOYMENTS),
        ("sts/llm", STATEFULSETS),
        ("statefulset/llm", STATEFULSETS),
        ("job/llm", "/apis/batch/v1/namespaces/team/jobs"),
    ],
)
def test_kinds_as_kubectl_spells_them(api, run, reference, path):
    api.add(path, workload(), name="llm")
    assert run(reference, *ASK).exit_code == 0
    assert f"{CHECKPOINTS}/{HASH}" in api.objects


def test_a_pod_that_chrek_injected(api, run):
    pod = template(checkpoint=HASH)
    pod["spec"]["nodeName"] = "n1"
    main = pod["spec"]["containers"][0]
    main["command"] = ["/chrek/chrek-init", "--wait", "20", "--", "python3", "s.py"]
    api.add("/api/v1/namespaces/team/pods", pod, name="llm-0")
    assert run("pod/llm-0", *ASK).exit_code == 0
    spec = api.objects[f"{CHECKPOINTS}/{HASH}"]["spec"]["job"]["podTemplateSpec"]["spec"]
    assert spec == {"containers": template()["spec"]["containers"]}


def test_every_field_of_the_identity(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    more = ["--tensor-parallel-size=2", "--pipeline-parallel-size=4", "--max-model-len=8192"]
    more += ["--dynamo-version=0.9.0", "--extra=quantization=awq", "--extra=a=b=c"]
    result = run("deploy/llm", *ASK, *more, "--name=llama", "--namespace=team")
    assert result.exit_code == 0, result.output
    assert api.objects[f"{CHECKPOINTS}/llama"]["spec"]["identity"] == {
        **IDENTITY,
        "dynamoVersion": "0.9.0",
        "tensorParallelSize": 2,
        "pipelineParallelSize": 4,
        "maxModelLen": 8192,
        "extraParameters": {"quantization": "awq", "a": "b=c"},
    }


def test_the_annotation_says_the_identity(api, run):
    pods = template(identity=json.dumps(IDENTITY), capture_source="worker")
    api.add(DEPLOYMENTS, workload(pods), name="llm")
    result = run("deploy/llm")
    assert result.exit_code == 0, result.output
    made = api.objects[f"{CHECKPOINTS}/{HASH}"]
    assert made["spec"] == {"identity": IDENTITY, "captureSource": "worker"}
    assert "--opt-in" not in result.stdout, "its pods have opted in by their identity"


def test_the_annotation_and_options_that_agree(api, run):
    api.add(DEPLOYMENTS, workload(template(identity=json.dumps(IDENTITY))), name="llm")
    assert run("deploy/llm", *ASK).exit_code == 0
    assert "job" in api.objects[f"{CHECKPOINTS}/{HASH}"]["spec"]


@pytest.mark.parametrize(
    ("pods", "options", "message"),
    [
        (template(), [], "--model and --backend required"),
        (template(), ["--model=m"], "--backend required"),
        (template(identity="{model:"), [], "annotation nvidia.com/chrek-identity: not JSON"),
        (template(identity='{"model": "m"}'), [], "chrek-identity.backendFramework: required"),
        (template(identity="[]"), [], "expected an object"),
        (template(identity=json.dumps(IDENTITY)), ["--dtype=fp8"], "the options differ"),
        (template(), [*ASK, "--extra=quantization"], "--extra quantization: not KEY=VALUE"),
        (template(), [*ASK, "--extra==awq"], "not KEY=VALUE"),
    ],
)
def test_identities_that_cannot_be_used(api, run, pods, options, message):
    api.add(DEPLOYMENTS, workload(pods), name="llm")
    result = run("deploy/llm", *options)
    assert result.exit_code == errors.InputError.exit_code, result.output
    assert message in result.stderr
    assert "\n  hint: " in result.stderr
    assert not any(path.startswith(CHECKPOINTS) for path in api.objects)


@pytest.mark.parametrize("reference", ["llm", "deploy/", "service/llm", "deploy/a/b", "/llm"])
def test_references_that_name_no_workload(run, reference):
    result = run(reference, *ASK)
    assert result.exit_code == errors.InputError.exit_code
    assert f"{reference!r} is not the name of a workload" in result.stderr


def test_a_workload_that_is_not_there(run):
    result = run("deploy/llm", *ASK)
    assert result.exit_code == errors.InputError.exit_code
    assert "there is no Deployment llm in namespace team" in result.stderr
    assert "kubectl get deployments -n team" in result.stderr


def test_the_container(api, run):
    pods = template()
    pods["spec"]["containers"] = [
        {"name": "worker", "image": "llama:1"},
        {"name": "proxy", "image": "proxy:1"},
    ]
    api.add(DEPLOYMENTS, workload(pods), name="llm")
    result = run("deploy/llm", *ASK)
    assert result.exit_code == errors.UnsupportedError.exit_code
    assert "which container is the worker? There are: worker, proxy" in result.stderr
    assert run("deploy/llm", *ASK, "--container=worker", "--opt-in").exit_code == 0
    assert api.objects[f"{CHECKPOINTS}/{HASH}"]["spec"]["job"]["container"] == "worker"
    annotations = api.objects[f"{DEPLOYMENTS}/llm"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["nvidia.com/chrek-container"] == "worker"


def test_pods_that_cannot_be_captured(api, run):
    pods = template()
    pods["spec"]["hostNetwork"] = True
    api.add(DEPLOYMENTS, workload(pods), name="llm")
    result = run("deploy/llm", *ASK)
    assert result.exit_code == errors.UnsupportedError.exit_code
    assert "hostNetwork cannot be combined with checkpoints" in result.stderr


def test_a_dry_run_prints_what_can_be_applied(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    result = run("deploy/llm", *ASK, "--dry-run", "--opt-in", "--wait")
    assert result.exit_code == 0
    made = yaml.safe_load(result.stdout)
    assert made["metadata"] == {"name": HASH, "namespace": "team"}
    assert made["kind"] == "DynamoCheckpoint"
    assert {method for method, *_ in api.requests} == {"GET"}


def test_a_dry_run_as_data(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    made = json.loads(run("deploy/llm", *ASK, "--dry-run", "-o", "json").stdout)
    assert made == yaml.safe_load(run("deploy/llm", *ASK, "--dry-run").stdout)
    assert run("deploy/llm", *ASK, "--dry-run", "-oname").stdout == NAME


def outcome(result):
    document = json.loads(result.stdout)
    jsonschema.validate(document, records.schema("checkpoint"))
    return document


def test_the_outcome_as_data(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    result = run("deploy/llm", *ASK, "-o", "json")
    assert outcome(result) == {
        "namespace": "team",
        "name": HASH,
        "hash": HASH,
        "workload": "deployment/llm",
        "created": True,
        "same": True,
        "phase": "",
        "message": "",
        "optedIn": False,
    }
    assert result.stderr.startswith(f"DynamoCheckpoint {HASH} created from deployment/llm\n")
    api.objects[f"{CHECKPOINTS}/{HASH}"]["status"] = {"phase": "Ready", "message": "captured"}
    result = run("deploy/llm", *ASK, "--opt-in", "--wait", "-o", "json")
    found = outcome(result)
    assert (found["created"], found["phase"], found["message"]) == (False, "Ready", "captured")
    assert found["optedIn"] is True
    assert "Ready: captured\n" in result.stderr
    assert yaml.safe_load(run("deploy/llm", *ASK, "-oyaml").stdout) == found
    assert run("deploy/llm", *ASK, "-oname").stdout == NAME


def test_an_outcome_that_is_bad_is_data_too(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    api.on_create = lambda _, body: body.update(status={"phase": "Failed", "message": "no"})
    result = run("deploy/llm", *ASK, "--opt-in", "--wait", "-o", "json")
    assert result.exit_code == errors.CheckpointError.exit_code
    found = outcome(result)
    assert (found["phase"], found["message"], found["optedIn"]) == ("Failed", "no", False)


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("GET", f"{DEPLOYMENTS}/llm", "get deployments.apps"),
        ("POST", CHECKPOINTS, "create dynamocheckpoints.nvidia.com"),
        ("PATCH", f"{DEPLOYMENTS}/llm", "patch deployments.apps"),
    ],
)
def test_a_missing_right_is_named(api, run, method, path, right):
    api.add(DEPLOYMENTS, workload(), name="llm")
    api.refuse(method, path, status=403, message="forbidden")
    result = run("deploy/llm", *ASK, "--opt-in")
    assert result.exit_code == errors.ApiError.exit_code
    assert f"you may not {right} in namespace team" in result.stderr
    assert f"kubectl auth can-i {right} -n team" in result.stderr


def test_another_context(api, run, tmp_path):
    api.add(DEPLOYMENTS, workload(), name="llm")
    path = tmp_path / "config"
    config = json.loads(path.read_text())
    config["contexts"][0]["context"]["namespace"] = "nothing-here"
    context = {"cluster": "c", "user": "u", "namespace": "team"}
    config["contexts"].append({"name": "work", "context": context})
    path.write_text(json.dumps(config))
    assert run("deploy/llm", *ASK).exit_code == errors.InputError.exit_code
    assert run("deploy/llm", *ASK, "--context", "work").exit_code == 0
    assert run("deploy/llm", *ASK, "--context", "none").exit_code == errors.ConfigError.exit_code


def test_it_exists_already(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    assert run("deploy/llm", *ASK).exit_code == 0
    api.objects[f"{CHECKPOINTS}/{HASH}"]["status"] = {"phase": "Ready"}
    result = run("deploy/llm", *ASK, "--tensor-parallel-size=1")
    assert result.exit_code == 0, result.output
    assert f"DynamoCheckpoint {HASH} exists already, of this identity: Ready" in result.stdout
    assert "note:" not in result.stdout


def test_it_exists_and_captures_another_image(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    run("deploy/llm", *ASK)
    pods = template()
    pods["spec"]["containers"][0]["image"] = "llama:2"
    api.add(DEPLOYMENTS, workload(pods), name="llm")
    result = run("deploy/llm", *ASK)
    assert result.exit_code == 0
    assert "note: it captures another image or command than that of deployment/llm" in result.stdout


def test_a_name_that_another_identity_has(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    other = {"spec": {"identity": {"model": "other", "framework": "vllm"}}}
    api.add(CHECKPOINTS, other, name="llama")
    result = run("deploy/llm", *ASK, "--name=llama")
    assert result.exit_code == errors.InputError.exit_code
    assert "DynamoCheckpoint llama exists already and is of another identity" in result.stderr
    assert '"model":"other"' in result.stderr


def test_a_cluster_without_our_kinds(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    api.refuse("POST", CHECKPOINTS, status=404, message="no such resource")
    result = run("deploy/llm", *ASK)
    assert result.exit_code == errors.ApiError.exit_code
    assert "chrek's CRDs are not installed in this cluster" in result.stderr
    assert "hint: install chrek: helm install chrek" in result.stderr


def test_opting_in_without_waiting(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    result = run("deploy/llm", *ASK, "--opt-in")
    assert result.exit_code == 0, result.output
    metadata = api.objects[f"{DEPLOYMENTS}/llm"]["spec"]["template"]["metadata"]
    assert metadata == {"labels": {"app": "llm"}, "annotations": {OPT_IN: HASH}}
    said = "deployment/llm: its pods are replaced now and start cold until the checkpoint is Ready"
    assert said in result.stdout
    again = run("deploy/llm", *ASK, "--opt-in")
    assert again.exit_code == 0
    assert "deployment/llm: its pods have opted in already" in again.stdout
    assert len([r for r in api.requests if r[0] == "PATCH"]) == 1


def test_opting_in_after_the_wait_starts_warm(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")

    def at_once(_, body):
        body["status"] = {"phase": "Ready", "message": "captured"}

    api.on_create = at_once
    result = run("deploy/llm", *ASK, "--opt-in", "--wait")
    assert result.stdout.splitlines()[1:] == [
        "Ready: captured",
        "deployment/llm: its pods are replaced now and start warm",
    ]


def test_a_failed_checkpoint_leaves_the_workload_alone(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")

    def fails(_, body):
        body["status"] = {"phase": "Failed", "message": "the worker exited with 1"}

    api.on_create = fails
    result = run("deploy/llm", *ASK, "--opt-in", "--wait")
    assert result.exit_code == errors.CheckpointError.exit_code
    assert "the worker exited with 1" in result.stderr
    assert f"chrek retry {HASH} -n team --wait" in result.stderr
    assert "PATCH" not in [method for method, *_ in api.requests]


def test_a_serving_pod_opts_in_before_the_wait(api, run):
    api.add(DEPLOYMENTS, workload(), name="llm")
    api.on_create = lambda _, body: body.update(status={"phase": "Ready"})
    result = run("deploy/llm", *ASK, "--capture-source=worker", "--opt-in", "--wait")
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        f"DynamoCheckpoint {HASH} created from deployment/llm",
        "deployment/llm",
        "Ready",
    ]


def test_a_stateful_set_whose_pods_the_user_replaces(api, run):
    api.add(STATEFULSETS, workload(updateStrategy={"type": "OnDelete"}), name="llm")
    result = run("sts/llm", *ASK, "--opt-in")
    assert "statefulset/llm: its pods are replaced when you delete them" in result.stdout


@pytest.mark.parametrize("kind", ["job", "pod"])
def test_opting_in_what_cannot_change(api, run, kind):
    api.add("/apis/batch/v1/namespaces/team/jobs", workload(), name="llm")
    api.add("/api/v1/namespaces/team/pods", template(), name="llm")
    result = run(f"{kind}/llm", *ASK, "--opt-in")
    assert result.exit_code == errors.InputError.exit_code
    assert f"{kind}/llm: --opt-in needs a Deployment or StatefulSet" in result.stderr
    assert f"{CHECKPOINTS}/{HASH}" not in api.objects


def test_opting_in_what_another_object_makes(api, run):
    owner = {"kind": "DynamoGraphDeployment", "name": "my-llm", "controller": True}
    api.add(DEPLOYMENTS, workload(), name="llm", ownerReferences=[owner])
    result = run("deploy/llm", *ASK, "--opt-in")
    assert result.exit_code == errors.InputError.exit_code
    assert "DynamoGraphDeployment my-llm makes it, and would undo --opt-in" in result.stderr


def test_no_cluster_is_no_traceback(tmp_path):
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "contexts: [{name: a, context: {cluster: a, user: a}}]\n"
        "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        "users: [{name: a, user: {}}]\n"
    )
    command = [sys.executable, "-c", "from chrek.cli import main; main()"]
    command += ["checkpoint", "deploy/llm", *ASK]
    for name, code in ((str(kubeconfig), errors.ApiError), ("/none", errors.ConfigError)):
        done = subprocess.run(
            command,
            env={"KUBECONFIG": name, "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code.exit_code, done.stderr
        assert done.stderr.startswith("error: ")
        assert "hint: " in done.stderr
        assert "Traceback" not in done.stderr


def test_ctrl_c_while_waiting(api, tmp_path):
    """It says that the checkpoint goes on, and what that means for --opt-in."""
    api.add(DEPLOYMENTS, workload(), name="llm")
    api.on_create = lambda _, body: body.update(status={"phase": "Creating", "message": "busy"})
    process = subprocess.Popen(
        [sys.executable, "-c", "from chrek.cli import main; main()", "checkpoint", "deploy/llm",
         *ASK, "--opt-in", "--wait"],
        env={"KUBECONFIG": str(api.kubeconfig(tmp_path, "team")), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline().startswith("DynamoCheckpoint")
        assert process.stdout.readline() == "Creating: busy\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == waiting.INTERRUPTED
    assert err == (
        f"\nno longer waiting; the checkpoint goes on: chrek show {HASH} -n team; the same command "
        "waits on, and has the pods of deployment/llm opt in then\n"
    )
    assert "PATCH" not in [method for method, *_ in api.requests]
