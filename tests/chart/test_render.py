"""What the chart renders fits together, and the programs can read it."""

import pathlib
import re

import pytest
import yaml

import chrek
from chart import rendered
from chrek import config, crd, identity, variant
from chrek.checks import agents, settings
from chrek.hooks import program
from chrek.operator import place

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "chrek"
VALUES = rendered.VALUES
HERE = {"namespace": "my-team", "own": "my-team"}

pytestmark = pytest.mark.helm


@pytest.fixture(scope="module")
def defaults(helm):
    return helm.template()


@pytest.fixture(scope="module", params=VALUES, ids=lambda path: path.name.partition("-values")[0])
def documents(helm, request):
    return helm.template(f"--values={request.param}")


def write(directory, document):
    """The files of a ConfigMap as a pod sees them."""
    for key, text in document["data"].items():
        (directory / key).write_text(text)


def test_the_programs_load_their_configuration(documents, tmp_path):
    maps = rendered.maps_with(documents, "agent.yaml")
    if not rendered.of_kind(documents, "DaemonSet"):
        assert maps == []
        return
    (found,) = maps
    write(tmp_path, found)
    agent = config.load(tmp_path / "agent.yaml", config.AgentConfig)
    (daemon_set,) = rendered.of_kind(documents, "DaemonSet")
    container = daemon_set["spec"]["template"]["spec"]["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    if agent.storage.type == "pvc":
        assert mounts["store"] == agent.storage.pvc.basePath
        assert "cache" not in mounts
    else:
        assert mounts["cache"] == agent.storage.cache.path
        assert "store" not in mounts
    assert mounts["signals"] == agent.signalHostPath
    assert mounts["kubelet"] == agent.kubeletRoot
    assert mounts["staging"] == agent.stagingPath
    assert container["ports"][0]["containerPort"] == agent.httpPort
    grace = daemon_set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > agent.dumpTimeoutSeconds
    if not rendered.of_kind(documents, "Deployment"):
        assert "operator.yaml" not in found["data"]
        return
    operator = config.load(tmp_path / "operator.yaml", config.OperatorConfig)
    assert operator.release == agent.release
    assert place.of(operator.storage, **HERE) == place.of(agent.storage, **HERE)
    assert operator.watchNamespaces == agent.watchNamespaces
    rendered.find(documents, "MutatingWebhookConfiguration", operator.webhookName)
    rendered.find(documents, "Service", operator.webhookServiceName)
    rendered.find(documents, "ServiceAccount", operator.agentServiceAccountName)
    (deployment,) = rendered.of_kind(documents, "Deployment")
    ports = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert [port["containerPort"] for port in ports] == [operator.httpPort, operator.webhookPort]


def test_the_operator_makes_deletion_jobs_that_agents_could_be(documents, tmp_path):
    """The template is where the operator looks, and its pod finds configuration and store."""
    deployments = rendered.of_kind(documents, "Deployment")
    if not deployments:
        return
    (found,) = rendered.maps_with(documents, "deletion-job.yaml")
    write(tmp_path, found)
    operator = config.load(tmp_path / "operator.yaml", config.OperatorConfig)
    path = pathlib.Path(operator.deletionJobPath)
    pod = deployments[0]["spec"]["template"]["spec"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "config"]
    (volume,) = [v for v in pod["volumes"] if v["name"] == "config"]
    assert str(path.parent) == mount["mountPath"]
    assert {"key": path.name, "path": path.name} in volume["configMap"]["items"]
    job = yaml.safe_load(found["data"][path.name])
    assert job["kind"] == "Job"
    assert "name" not in job["metadata"]
    (daemon_set,) = rendered.of_kind(documents, "DaemonSet")
    agent = daemon_set["spec"]["template"]["spec"]
    deletion = job["spec"]["template"]["spec"]
    (container,) = deletion["containers"]
    assert deletion["serviceAccountName"] == operator.agentServiceAccountName
    for field in ("tolerations", "nodeSelector", "affinity", "imagePullSecrets"):
        assert deletion.get(field) == agent.get(field), field
    # But for what is the node's or the agent's alone.
    apart = {"kubelet", "signals", "cache", "staging", "cgroup"}
    mounts = [m for m in agent["containers"][0]["volumeMounts"] if m["name"] not in apart]
    assert container["volumeMounts"] == mounts
    assert [v["name"] for v in deletion["volumes"]] == [m["name"] for m in mounts]
    volumes = {v["name"]: v for v in agent["volumes"]}
    assert [volumes[v["name"]] for v in deletion["volumes"]] == deletion["volumes"]
    assert "hostPID" not in deletion
    context = container["securityContext"]
    assert context["runAsUser"] == 0, "the store's files are root's"
    assert "privileged" not in context
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["allowPrivilegeEscalation"] is False


def test_secrets_need_an_acknowledgement_in_both_programs(helm, tmp_path):
    """The operator refuses before it makes a Job, the agent before it freezes a pod."""
    documents = helm.template("--set=secrets.envFromSecrets=RequireAcknowledgement")
    (found,) = rendered.maps_with(documents, "agent.yaml")
    write(tmp_path, found)
    wanted = config.EnvFromSecrets.REQUIRE_ACKNOWLEDGEMENT
    for name, kind in (("agent", config.AgentConfig), ("operator", config.OperatorConfig)):
        assert config.load(tmp_path / f"{name}.yaml", kind).envFromSecrets == wanted


def test_the_hooks_load_their_configuration(documents, tmp_path):
    maps = rendered.maps_with(documents, "release.yaml")
    (kept,) = [d for d in maps if not rendered.events(d)]
    if not rendered.of_kind(documents, "Job"):
        assert maps == [kept]
        return
    assert len({d["data"]["release.yaml"] for d in maps}) == 1
    (found,) = [d for d in maps if "pre-install" in rendered.events(d)]
    write(tmp_path, found)
    loaded = settings.load(tmp_path / "release.yaml")
    for wanted in loaded.prewarm:
        assert wanted.namespace in loaded.watchNamespaces
        identity.parse(wanted.spec["identity"], "prewarm")
    for index, raw in enumerate(loaded.identities):
        identity.parse(raw, f"identities[{index}]")
    assert loaded.allowed_unavailable(10) >= 0
    pods = [rendered.name(d) for d in rendered.of_kind(documents, "Pod")]
    assert [loaded.testPodName] == (pods or [""])
    daemon_sets = rendered.of_kind(documents, "DaemonSet")
    assert [loaded.agentName] == ([rendered.name(d) for d in daemon_sets] or [""])
    pod = settings.load_pod(tmp_path / "agent-pod.yaml")
    if not daemon_sets:
        assert pod is None
        return
    template = daemon_sets[0]["spec"]["template"]
    # The very pod of the DaemonSet; its account does not exist before the installation.
    assert pod["spec"] == {**template["spec"], "serviceAccountName": rendered.name(found)}
    assert loaded.agentLabels.items() <= template["metadata"]["labels"].items()
    assert agents.port(pod, 0) == loaded.agentHttpPort
    volumes = [v["hostPath"]["path"] for v in template["spec"]["volumes"] if "hostPath" in v]
    assert set(loaded.nodePaths) <= set(volumes)


def test_the_worker_of_the_test_is_a_pod(defaults):
    text = rendered.find(defaults, "ConfigMap", "chrek-test")["data"]["worker.yaml"]
    worker = yaml.safe_load(text)
    (container,) = worker["spec"]["containers"]
    assert container["name"] == "main"
    assert container["command"] == ["python3", "-m", "chrek.hooks.counter"]


def test_the_worker_with_a_gpu_is_the_same_pod_but_for_what_a_gpu_needs(documents):
    for found in rendered.maps_with(documents, "worker.yaml"):
        worker, other = (
            yaml.safe_load(found["data"][name]) for name in ("worker.yaml", "gpu-worker.yaml")
        )
        spec, gpu = worker.pop("spec"), other.pop("spec")
        assert other == worker
        (plain,), (container,) = spec.pop("containers"), gpu.pop("containers")
        assert container.pop("command") == ["python3", "-m", "chrek.hooks.counter_gpu"]
        assert {variable["name"] for variable in container.pop("env")} == {
            "LD_LIBRARY_PATH",
            "NVIDIA_DRIVER_CAPABILITIES",
        }
        resources = container.pop("resources")
        counts = {k: v for k, v in resources["limits"].items() if k.startswith("nvidia.com/")}
        assert [*counts.values()] == ["1"]
        assert variant.gpus({"resources": resources})
        plain = {k: v for k, v in plain.items() if k not in ("command", "resources")}
        assert container == plain
        gpu.pop("runtimeClassName", None)
        assert gpu == spec


def test_every_account_exists(documents):
    accounts = {
        (d["metadata"]["namespace"], rendered.name(d))
        for d in rendered.of_kind(documents, "ServiceAccount")
    }
    wanted = {
        (owner["metadata"]["namespace"], template["spec"]["serviceAccountName"])
        for owner, template in rendered.pod_templates(documents)
    }
    bound = {
        (subject["namespace"], subject["name"])
        for d in rendered.of_kind(documents, "RoleBinding", "ClusterRoleBinding")
        for subject in d["subjects"]
    }
    assert wanted == accounts == bound


def test_every_binding_has_its_role(documents):
    roles = {
        (d["kind"], d["metadata"].get("namespace"), rendered.name(d))
        for d in rendered.of_kind(documents, "Role", "ClusterRole")
        # Kubernetes adds these to its own, which people are bound to.
        if not any("/aggregate-to-" in label for label in d["metadata"]["labels"])
    }
    bound = {
        (d["roleRef"]["kind"], d["metadata"].get("namespace"), d["roleRef"]["name"])
        for d in rendered.of_kind(documents, "RoleBinding", "ClusterRoleBinding")
    }
    assert roles == bound


def test_no_role_asks_for_everything(documents):
    for role in rendered.of_kind(documents, "Role", "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], role


DEFAULT_ROLES = ("view", "edit", "admin")
LABELS_OF_VALUES = {
    "ClusterRole": {f"rbac.authorization.k8s.io/aggregate-to-{one}" for one in DEFAULT_ROLES},
    "PodMonitor": {"release"},
    "PrometheusRule": {"release"},
    "ConfigMap": {"grafana_dashboard"},
    "Pod": {"sidecar.istio.io/inject", "example.com/c"},
}
"""Kinds that may have labels of their own -> these, and what `everything` gives them."""
COMMON = {"team"}
"""Its `commonLabels`: every object has them or none."""


def test_names_and_labels(documents):
    common = set.intersection(*(set(d["metadata"]["labels"]) for d in documents)) & COMMON
    for document in documents:
        metadata = document["metadata"]
        assert ("namespace" in metadata) != (document["kind"] in rendered.CLUSTER_SCOPED), metadata
        assert len(metadata["name"]) <= 63
        more = LABELS_OF_VALUES.get(document["kind"], set())
        assert set(metadata["labels"]) - more - common == {
            "helm.sh/chart",
            "app.kubernetes.io/name",
            "app.kubernetes.io/instance",
            "app.kubernetes.io/component",
            "app.kubernetes.io/version",
            "app.kubernetes.io/managed-by",
            "app.kubernetes.io/part-of",
        }


def test_names_are_unique(documents):
    keys = [(d["kind"], d["metadata"].get("namespace"), rendered.name(d)) for d in documents]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("flags", [(), (f"--values={CHART / 'ci' / 's3-values.yaml'}",)])
def test_two_releases_share_nothing(helm, flags):
    first = helm.template(*flags, namespace="one")
    second = helm.template(*flags, namespace="two")

    def keys(documents):
        return {(d["kind"], d["metadata"].get("namespace"), rendered.name(d)) for d in documents}

    assert keys(first) & keys(second) == set()

    def host_paths(documents):
        (daemon_set,) = rendered.of_kind(documents, "DaemonSet")
        volumes = daemon_set["spec"]["template"]["spec"]["volumes"]
        return {v["hostPath"]["path"] for v in volumes if v["name"] in ("signals", "cache")}

    assert len(host_paths(first)) == 1 + bool(flags)
    assert host_paths(first) & host_paths(second) == set()


def test_selectors_never_change_with_the_version(documents):
    for document in rendered.of_kind(documents, "DaemonSet", "Deployment"):
        labels = document["spec"]["selector"]["matchLabels"]
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(labels)
        assert labels.items() <= document["spec"]["template"]["metadata"]["labels"].items()


def test_only_the_agent_has_privileges(documents):
    for owner, template in rendered.pod_templates(documents):
        pod = template["spec"]
        if owner["kind"] == "DaemonSet":
            assert not pod.get("hostNetwork")
            assert not pod.get("hostIPC")
            continue
        assert pod["securityContext"]["runAsNonRoot"] is True, rendered.name(owner)
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_every_host_path_and_privilege_says_why():
    text = (CHART / "templates" / "agent" / "_pod.tpl").read_text()
    store = (CHART / "templates" / "_store.tpl").read_text()
    mounts = text.partition("volumeMounts:")[2].partition("\n  volumes:")[0]
    mounts += store.partition("chrek.store.mounts")[2].partition("{{- define")[0]
    entries = re.findall(r"((?: *# .*\n)*) *- name: ([\w-]+)", mounts)
    assert len(entries) == 10
    assert [mount for comment, mount in entries if not comment] == []
    for word in ("hostPID: true", "privileged: true"):
        before = text.partition(word)[0].rstrip().splitlines()[-1]
        assert before.strip().startswith("#"), word


def test_hooks_of_an_event_have_distinct_weights(documents):
    by_event = {}
    for document in documents:
        for event in rendered.events(document):
            weight = int(rendered.annotations(document).get("helm.sh/hook-weight", 0))
            by_event.setdefault(event, []).append((weight, document["kind"]))
    by_event.pop("test", None)
    for event, found in by_event.items():
        weights = [weight for weight, _ in found]
        assert len(weights) == len(set(weights)), event
        order = [kind for _, kind in sorted(found)]
        assert order[0] == "ServiceAccount"
        assert order[-1] == "Job"
        assert sorted(found)[-1][0] == (-1 if event in ("pre-upgrade", "pre-rollback") else 0)


def test_the_claim_is_never_a_hook(documents):
    for claim in rendered.of_kind(documents, "PersistentVolumeClaim"):
        assert rendered.events(claim) == []
        assert rendered.annotations(claim)["helm.sh/resource-policy"] == "keep"


def test_hook_programs_exist(defaults):
    commands = [
        template["spec"]["containers"][0]["command"]
        for owner, template in rendered.pod_templates(defaults)
        if rendered.events(owner)
    ]
    files = {pathlib.Path(command[1]).name for command in commands}
    assert files == {path.name for path in (ROOT / "hooks").glob("*.py")}
    for name in files:
        assert (
            f"from chrek.hooks import {name.removesuffix('.py')}\n"
            in (ROOT / "hooks" / name).read_text()
        )


def test_hook_files_are_where_the_program_looks(defaults):
    job = rendered.find(defaults, "Job", "chrek-pre-upgrade")
    mounts = job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    paths = {mount["name"]: pathlib.Path(mount["mountPath"]) for mount in mounts}
    assert paths == {"config": program.DIRECTORY, "crds": program.CRDS}


def test_versions_agree():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == chrek.__version__
    listed = {
        entry["name"] for entry in yaml.safe_load(chart["annotations"]["artifacthub.io/crds"])
    }
    files = [yaml.safe_load(path.read_text()) for path in (CHART / "files" / "crds").glob("*.yaml")]
    assert listed == {rendered.name(crd) for crd in files}
    for text in (value for key, value in chart["annotations"].items() if "crds" in key):
        assert yaml.safe_load(text)


def test_crds_carry_the_mark_that_the_upgrade_looks_for():
    for path in (CHART / "files" / "crds").glob("*.yaml"):
        assert not crd.is_foreign(yaml.safe_load(path.read_text())), path.name


def test_a_release_is_small():
    """Helm keeps chart and manifest, compressed, in a Secret of at most 1 MiB."""
    ignored = {"ci", "tests"}  # As .helmignore says.
    assert {f"/{name}/" for name in ignored} <= set((CHART / ".helmignore").read_text().split())
    files = [path for path in CHART.rglob("*") if path.is_file()]
    kept = [path for path in files if path.relative_to(CHART).parts[0] not in ignored]
    assert sum(path.stat().st_size for path in kept) < 300_000
