"""The chart on a cluster: what the API server and the hooks say, a life to its uninstallation."""

import base64
import contextlib
import json
import pathlib
import time

import pytest
import yaml

from chart import live as lives
from chart import rendered

CHART = rendered.CHART
PLATFORM = pathlib.Path(__file__).resolve().parents[1] / "e2e" / "platform_crds.yaml"

pytestmark = [pytest.mark.cluster, pytest.mark.helm]


@pytest.fixture(scope="module")
def dry(live):
    with lives.namespace(live, "chart-dry") as name:
        yield name


@pytest.mark.parametrize(
    "values", rendered.VALUES, ids=lambda path: path.name.partition("-values")[0]
)
def test_the_api_server_takes_every_object(live, helm, dry, values):
    """A dry run on the server: defaults, validation and admission, hooks and tests included."""
    documents = helm.template(f"--values={values}", namespace=dry)
    # Of another project, whose CRDs are not here.
    foreign = ("PodMonitor", "PrometheusRule")
    documents = [document for document in documents if document["kind"] not in foreign]
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
    with lives.namespace(live, "chart-policy") as name, contextlib.ExitStack() as stack:
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
    with lives.namespace(live, "chart-broken", enforce="restricted") as name:
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


def drift(live, manifest, name):
    """What Flux, and whoever else applies a release's manifest again, would change."""
    documents = [document for document in yaml.safe_load_all(manifest) if document]
    for document in documents:
        # What Helm adds to what it has rendered.
        mine = {"meta.helm.sh/release-name": "chrek", "meta.helm.sh/release-namespace": name}
        document["metadata"].setdefault("annotations", {}).update(mine)
    flags = ["--server-side", "--force-conflicts", "--field-manager=helm", "--filename=-"]
    done = live.kubectl("diff", *flags, stdin=yaml.safe_dump_all(documents), check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def definitions(live):
    """The CRDs of the cluster that chrek has files for."""
    found = live.get(f"--filename={lives.CRDS}")["items"]
    return {rendered.name(d): (d["metadata"]["labels"], d["spec"]) for d in found}


@contextlib.contextmanager
def beside_a_platform(live):
    """The CRDs are another chart's, as Helm 4 leaves them: it is one manager for all charts."""
    apply = ["apply", "--server-side", "--force-conflicts"]
    live.kubectl(*apply, "--field-manager=helm", f"--filename={PLATFORM}")
    theirs = definitions(live)
    try:
        yield
        assert definitions(live) == theirs
    finally:
        live.kubectl(*apply, f"--filename={lives.CRDS}")


@pytest.mark.parametrize(
    "program",
    # The tests of tests/e2e live with Helm 3.
    [pytest.param("helm", id="helm3", marks=pytest.mark.heavy), pytest.param("helm4", id="helm4")],
)
def test_from_install_to_uninstall(live, program):
    """Helm says ready when it is; an upgrade keeps the CA and applies CRDs; the claim stays."""
    with lives.namespace(live, f"chart-life-{program}") as name, contextlib.ExitStack() as stack:

        def helm(verb, *args, **kwargs):
            return live.run(program, verb, "chrek", *args, f"--namespace={name}", **kwargs)

        flags = ["--timeout=4m", "--set=storage.pvc.size=1Gi"]
        stack.callback(helm, "uninstall", check=False)
        identities = (
            '[{"model":"meta-llama/Llama-3-8B","backendFramework":"vllm","dtype":"bfloat16"}]'
        )
        helm(
            "install",
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

        helm(
            "upgrade",
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
        # What operator, agents and hooks wrote is nobody's drift.
        manifest = live.run(program, "get", "manifest", "chrek", f"--namespace={name}").stdout
        assert drift(live, manifest, name) == ""
        if program == "helm4":  # tests/e2e has the test of Helm 3.
            said = helm("test", "--timeout=4m").stdout
            assert "Succeeded" in said, said
        helm("rollback", "1", "--timeout=4m")
        hashes = live.get("configmap", "chrek-identities", f"--namespace={name}")["data"]
        assert list(hashes) == ["5941a4cb3c363457"]

        helm("uninstall")
        claims = live.get("persistentvolumeclaims", f"--namespace={name}")["items"]
        assert [rendered.name(claim) for claim in claims] == ["chrek-pvc"]
        uid = claims[0]["metadata"]["uid"]
        with beside_a_platform(live):
            helm("install", CHART, *flags)
        claim = live.get("persistentvolumeclaim", "chrek-pvc", f"--namespace={name}")
        assert claim["metadata"]["uid"] == uid
