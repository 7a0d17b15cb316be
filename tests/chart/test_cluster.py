"""The chart on a cluster: what the API server and the hooks say, a life to its uninstallation."""

import base64
import contextlib
import json
import os
import pathlib
import subprocess
import time

import pytest
import yaml

from chart import rendered

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "chrek"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))

pytestmark = [pytest.mark.cluster, pytest.mark.helm]


class Live:
    """kubectl and helm on one cluster."""

    def __init__(self, kubectl, helm, kubeconfig):
        self.programs = {"kubectl": kubectl, "helm": helm}
        self.environment = {**os.environ, "KUBECONFIG": os.fspath(kubeconfig)}

    def run(self, program, *args, stdin=None, check=True):
        done = subprocess.run(
            [self.programs[program], *args],
            input=stdin,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def kubectl(self, *args, **kwargs):
        return self.run("kubectl", *args, **kwargs)

    def helm(self, *args, **kwargs):
        return self.run("helm", *args, **kwargs)

    def get(self, *args):
        return json.loads(self.kubectl("get", *args, "--output=json").stdout)


@pytest.fixture(scope="module")
def live(cache, tool_path):
    path = pathlib.Path(os.environ.get("KUBECONFIG") or cache / "cluster/pki/admin.kubeconfig")
    found = Live(tool_path("kubectl"), tool_path("helm"), path)
    if found.kubectl("version", check=False).returncode != 0:
        pytest.skip("no cluster: run scripts/cluster up")
    found.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CHART / 'crds'}")
    return found


@contextlib.contextmanager
def namespace(live, name, **labels):
    live.kubectl("delete", "namespace", name, "--ignore-not-found")
    live.kubectl("create", "namespace", name)
    for key, value in labels.items():
        live.kubectl("label", "namespace", name, f"pod-security.kubernetes.io/{key}={value}")
    try:
        yield name
    finally:
        live.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def dry(live):
    with namespace(live, "chart-dry") as name:
        yield name


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.name.partition("-values")[0])
def test_the_api_server_takes_every_object(live, helm, dry, values):
    """A dry run on the server: defaults, validation and admission, hooks and tests included."""
    documents = helm.template(f"--values={values}", namespace=dry)
    # Of another project, whose CRDs are not here.
    documents = [document for document in documents if document["kind"] != "PodMonitor"]
    for document in rendered.of_kind(documents, "Pod"):
        # Admission looks the account up, and a dry run has not made it.
        document["spec"]["serviceAccountName"] = "default"
    done = live.kubectl(
        "apply", "--dry-run=server", "--filename=-", stdin=yaml.safe_dump_all(documents)
    )
    assert len(done.stdout.splitlines()) == len(documents)
    # Unknown and repeated fields are warnings of the API server.
    assert "Warning" not in done.stderr, done.stderr


def test_only_the_agent_writes_what_is_believed_of_pods(live, helm):
    with namespace(live, "chart-policy") as name, contextlib.ExitStack() as stack:
        documents = helm.template(namespace=name)
        kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
        policy = rendered.of_kind(documents, *kinds)
        rules = [
            d
            for d in rendered.of_kind(documents, "Role", "RoleBinding")
            if "agent" in d["metadata"]["name"]
        ]
        text = yaml.safe_dump_all([*policy, *rules])
        live.kubectl("apply", "--filename=-", stdin=text)
        stack.callback(live.kubectl, "delete", "--filename=-", stdin=text, check=False)
        result = "nvidia.com/chrek-result"

        def pod(pod_name, annotations):
            return yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": pod_name, "namespace": name, "annotations": annotations},
                    "spec": {
                        "nodeSelector": {"no": "where"},
                        "containers": [{"name": "main", "image": "none"}],
                    },
                }
            )

        refused = ("only", "is written by the chrek agent")
        deadline = time.monotonic() + 30
        while True:
            # The API server compiles a new policy some time after it was made.
            done = live.kubectl(
                "create", "--filename=-", stdin=pod("a", {result: "{}"}), check=False
            )
            if done.returncode != 0:
                break
            assert time.monotonic() < deadline, "the policy never took effect"
            live.kubectl("delete", "pod", "a", f"--namespace={name}", "--now")
        assert refused[1] in done.stderr
        live.kubectl("create", "--filename=-", stdin=pod("b", {"other": "x"}))
        annotate = ["annotate", "pod", "b", f"--namespace={name}", "--overwrite"]
        live.kubectl(*annotate, "other=y")
        done = live.kubectl(*annotate, f"{result}=forged", check=False)
        assert refused[1] in done.stderr
        patch = json.dumps({"metadata": {"annotations": {result: "forged"}}})
        status = ["patch", "pod", "b", f"--namespace={name}", "--subresource=status"]
        done = live.kubectl(*status, f"--patch={patch}", check=False)
        assert refused[1] in done.stderr
        agent = f"--as=system:serviceaccount:{name}:chrek-agent"
        live.kubectl(*annotate, f"{result}=true", agent)
        done = live.kubectl(*annotate, f"{result}-", check=False)
        assert refused[1] in done.stderr, "a result can be taken away"
        # How a worker started. (The agent writes it through the status, which kubectl would have
        # to read first; tests/e2e sees it do so.)
        start = "nvidia.com/chrek-start"
        done = live.kubectl(*annotate, f"{start}=forged", check=False)
        assert refused[1] in done.stderr
        live.kubectl(*annotate, f"{start}=told", agent)
        told = json.dumps({"metadata": {"annotations": {start: "x"}}})
        done = live.kubectl(*status, f"--patch={told}", check=False)
        assert refused[1] in done.stderr


def test_an_installation_that_cannot_work_says_so_before_it_makes_anything(live):
    with namespace(live, "chart-broken", enforce="restricted") as name:
        done = live.helm(
            "install",
            "chrek",
            CHART,
            f"--namespace={name}",
            "--set=storage.pvc.storageClassName=none-such",
            f"--set=dynamo-operator.watchNamespaces={{{name},no-such-namespace}}",
            "--timeout=2m",
            check=False,
        )
        assert done.returncode != 0
        said = done.stdout + done.stderr
        assert "no-such-namespace: not found" in said
        assert "StorageClass 'none-such': not found; there are: " in said
        assert "violates PodSecurity" in said
        assert "pod-security.kubernetes.io/enforce=privileged --overwrite" in said
        made = live.get("persistentvolumeclaims,daemonsets,deployments", f"--namespace={name}")
        assert made["items"] == []
        live.helm("uninstall", "chrek", f"--namespace={name}", check=False)


def ca_bundle(live, name):
    found = live.get("mutatingwebhookconfiguration", name)
    return base64.b64decode(found["webhooks"][0]["clientConfig"]["caBundle"])


def managers(live, crd):
    found = live.get("crd", crd, "--show-managed-fields")
    return {entry["manager"] for entry in found["metadata"]["managedFields"]}


def test_from_install_to_uninstall(live):
    """Helm says ready when it is; an upgrade keeps the CA and applies CRDs; the claim stays."""
    with namespace(live, "chart-life") as name, contextlib.ExitStack() as stack:
        flags = [f"--namespace={name}", "--timeout=4m", "--set=storage.pvc.size=1Gi"]
        stack.callback(live.helm, "uninstall", "chrek", f"--namespace={name}", check=False)
        identities = (
            '[{"model":"meta-llama/Llama-3-8B","backendFramework":"vllm","dtype":"bfloat16"}]'
        )
        live.helm(
            "install",
            "chrek",
            CHART,
            *flags,
            f"--set-json=dynamo-operator.checkpoint.identities={identities}",
        )
        status = live.get("daemonset", "chrek-agent", f"--namespace={name}")["status"]
        assert status["numberReady"] == status["desiredNumberScheduled"] > 0
        hashes = live.get("configmap", "chrek-identities", f"--namespace={name}")["data"]
        assert list(hashes) == ["5941a4cb3c363457"]
        assert live.get("jobs", f"--namespace={name}")["items"] == [], "hooks leave nothing"
        before = ca_bundle(live, f"{name}-chrek")
        assert b"BEGIN CERTIFICATE" in before

        live.helm(
            "upgrade",
            "chrek",
            CHART,
            *flags,
            "--set=agent.logLevel=debug",
            '--set-json=dynamo-operator.checkpoint.identities=[{"model":"a","framework":"vllm"}]',
        )
        assert ca_bundle(live, f"{name}-chrek") == before
        assert "chrek-crds" in managers(live, "dynamocheckpoints.nvidia.com")
        hashes = live.get("configmap", "chrek-identities", f"--namespace={name}")["data"]
        assert len(hashes) == 1
        assert "5941a4cb3c363457" not in hashes, "an identity that left the values stays"
        live.helm("rollback", "chrek", "1", f"--namespace={name}", "--timeout=4m")

        live.helm("uninstall", "chrek", f"--namespace={name}")
        claims = live.get("persistentvolumeclaims", f"--namespace={name}")["items"]
        assert [rendered.name(claim) for claim in claims] == ["chrek-pvc"]
        uid = claims[0]["metadata"]["uid"]
        live.helm("install", "chrek", CHART, *flags)
        claim = live.get("persistentvolumeclaim", "chrek-pvc", f"--namespace={name}")
        assert claim["metadata"]["uid"] == uid
