"""The chart under tools that do not know an installation from an upgrade: docs/gitops.md."""

import pathlib
import re
import shlex
import subprocess

import pytest
import yaml

from chart import gitops, rendered
from chart import live as lives

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "gitops.md").read_text()
TEAM = "my-team"
"""The guide's namespace."""

pytestmark = [pytest.mark.helm, pytest.mark.chart]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def example(kind):
    """The one object of this kind in the guide."""
    every = [d for block in blocks("yaml") for d in yaml.safe_load_all(block)]
    (found,) = [document for document in every if document["kind"] == kind]
    return found


def command(word):
    """The one block of commands with this word, as bash runs it."""
    (found,) = [block for block in blocks("bash") if word in block]
    return f"set -euo pipefail\n{found}"


# Fields that the CRDs of Argo CD and Flux require, and those of which a missing one surprises.
REQUIRED = {
    "Application": [
        *("metadata.finalizers", "spec.project", "spec.source.repoURL", "spec.source.path"),
        *("spec.source.targetRevision", "spec.source.helm.valuesObject", "spec.destination.server"),
        *("spec.destination.namespace", "spec.syncPolicy.syncOptions"),
    ],
    "GitRepository": ["spec.interval", "spec.url", "spec.ref"],
    "HelmRelease": [
        *("spec.interval", "spec.chart.spec.chart", "spec.chart.spec.sourceRef.kind"),
        *("spec.chart.spec.sourceRef.name", "spec.timeout", "spec.values"),
    ],
}
API_VERSIONS = {
    "Application": "argoproj.io/v1alpha1",
    "GitRepository": "source.toolkit.fluxcd.io/v1",
    "HelmRelease": "helm.toolkit.fluxcd.io/v2",
}


@pytest.mark.parametrize("kind", REQUIRED)
def test_the_examples_are_complete(kind):
    found = example(kind)
    assert found["apiVersion"] == API_VERSIONS[kind]
    assert found["metadata"]["name"]
    for path in REQUIRED[kind]:
        value = found
        for part in path.split("."):
            assert part in value, f"{kind} lacks {path}"
            value = value[part]


def test_the_examples_fit_each_other_and_the_chart(helm, tmp_path):
    application, release = example("Application"), example("HelmRelease")
    source = application["spec"]["source"]
    assert ROOT / source["path"] == rendered.CHART
    # Else app.kubernetes.io/instance is one thing for Argo CD and another for the chart.
    assert source["helm"].get("releaseName", "chrek") == application["metadata"]["name"]
    repository = example("GitRepository")
    reference = release["spec"]["chart"]["spec"]["sourceRef"]
    assert (reference["kind"], reference["name"]) == ("GitRepository", "chrek")
    assert (repository["metadata"]["name"], repository["metadata"]["namespace"]) == (
        reference["name"],
        reference.get("namespace", release["metadata"]["namespace"]),
    )
    assert ROOT / release["spec"]["chart"]["spec"]["chart"] == rendered.CHART
    version = yaml.safe_load((rendered.CHART / "Chart.yaml").read_text())["version"]
    assert source["targetRevision"] == repository["spec"]["ref"]["tag"] == f"v{version}"
    for values in (source["helm"]["valuesObject"], release["spec"]["values"]):
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        assert helm.template(f"--values={file}")


@pytest.fixture(scope="module", params=rendered.VALUES, ids=lambda path: path.stem)
def documents(helm, request):
    return helm.template(f"--values={request.param}")


def jobs(documents, phase):
    """Jobs of a phase with their waves."""
    found = rendered.of_kind(documents, "Job")
    return {rendered.name(d): gitops.wave(d) for d in found if phase in gitops.phases(d)}


def test_a_hook_of_two_phases_is_the_same_object_in_both(documents):
    """It is deleted and made again in between, so that nothing in it may be of one phase alone."""
    for document in documents:
        found = gitops.phases(document)
        if len(found) > 1:
            assert document["kind"] in ("ServiceAccount", "ConfigMap"), rendered.name(document)


def test_every_hook_goes_when_the_sync_has_ended(documents):
    """Else the next sync would compare it, and another installation could not make it."""
    for document in documents:
        if gitops.phases(document):
            policy = rendered.annotations(document)["helm.sh/hook-delete-policy"]
            assert policy == "before-hook-creation,hook-succeeded", rendered.name(document)


def test_rendering_again_changes_nothing(helm):
    """No random names, no times: such a release would always be out of sync."""
    for values in rendered.VALUES:
        flags = [f"--values={values}"]
        assert helm.template(*flags) == helm.template(*flags)


def test_what_is_filled_in_later_is_not_rendered(documents):
    """Whoever applies the manifests again would take it away."""
    for document in rendered.of_kind(documents, "MutatingWebhookConfiguration"):
        for webhook in document["webhooks"]:
            assert "caBundle" not in webhook["clientConfig"]
    for document in rendered.of_kind(documents, "Secret"):
        assert not {"data", "stringData"} & set(document)
    for document in rendered.of_kind(documents, "Lease"):
        assert "spec" not in document
    for document in documents:
        if rendered.name(document).endswith("-identities"):
            assert "data" not in document


CHANGING = {
    *("DaemonSet", "Deployment", "Lease", "PersistentVolumeClaim", "PodDisruptionBudget"),
    *("ValidatingAdmissionPolicy", "DynamoCheckpoint"),
}
"""Kinds whose status, or hold, is written at any time; the others must not be written at all."""


def snapshot(live, documents):
    """Generations, and resource versions of what nobody has a reason to write to."""
    listed = live.get("--filename=-", stdin=yaml.safe_dump_all(gitops.ordinary(documents)))
    items = [*listed["items"], *live.get("dynamocheckpoints", *where(documents))["items"]]
    found = {}
    for item in items:
        meta, kind = item["metadata"], item["kind"]
        version = None if kind in CHANGING else meta["resourceVersion"]
        found[kind, meta["name"]] = (meta["uid"], meta.get("generation"), version)
    return found


def where(documents):
    (account, *_) = rendered.of_kind(documents, "ServiceAccount")
    return [f"--namespace={account['metadata']['namespace']}"]


def pods(live, name):
    """The release's pods and how often their containers were started."""
    listed = live.get("pods", f"--namespace={name}", "--selector=app.kubernetes.io/name=chrek")
    return {
        rendered.name(pod): [c["restartCount"] for c in pod["status"]["containerStatuses"]]
        for pod in listed["items"]
    }


def run(live, text, *, name, values):
    """Commands of the guide, for another namespace and these values."""
    text = text.replace(TEAM, name).replace("--values values.yaml", f"--values {values}")
    programs = {word: live.program(word) for word in ("helm", "kubectl")}
    functions = [f'{word}() {{ {shlex.quote(path)} "$@"; }}' for word, path in programs.items()]
    done = subprocess.run(
        ["bash", "-c", "\n".join([*functions, text])],
        env=live.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


VALUES = """
storage: {pvc: {size: 1Gi}}
dynamo-operator:
  checkpoint:
    identities: [{model: meta-llama/Llama-3-8B, backendFramework: vllm}]
    prewarm:
      - name: later
        spec:
          identity: {model: later, backendFramework: vllm}
          job:
            podTemplateSpec:
              spec:
                nodeSelector: {no: where}
                containers: [{name: main, image: none}]
"""


@pytest.mark.cluster
def test_syncing_three_times_changes_nothing(live, helm, tmp_path):
    """As Argo CD does it: every hook at every sync, ordinary objects applied server-side."""
    values = tmp_path / "values.yaml"
    values.write_text(VALUES)
    with lives.namespace(live, "chart-gitops") as name:
        documents = helm.template(f"--values={values}", namespace=name)
        application = gitops.Application(live, documents)
        application.sync()
        try:
            hashes = live.get("configmap", "chrek-identities", f"--namespace={name}")["data"]
            assert list(hashes) == ["4a5f6cbea582b088"]
            before, running = snapshot(live, documents), pods(live, name)
            assert len(running) >= 2
            assert ("DynamoCheckpoint", "later") in before
            for _ in range(2):
                assert application.difference() == ""
                application.sync()
                assert snapshot(live, documents) == before
                assert pods(live, name) == running
            assert application.difference() == ""
            # Nothing of `helm test` is a hook of Argo CD: the guide's own command runs it.
            said = run(live, command("round-trip.yaml"), name=name, values=values)
            assert "pod/chrek-test-round-trip condition met" in said
            # An older Argo CD does not run what comes before a deletion.
            said = run(live, command("pre-delete-job.yaml"), name=name, values=values)
            assert "job.batch/chrek-pre-delete condition met" in said
            scale = live.get("deployment", "chrek-operator", f"--namespace={name}")
            assert scale["spec"]["replicas"] == 0
        finally:
            application.delete()
        left = live.get("all,configmaps,secrets,serviceaccounts,leases", f"--namespace={name}")
        names = {rendered.name(d) for d in left["items"] if d["kind"] != "Pod"}
        assert names == {"kube-root-ca.crt", "default"}
        claims = live.get("persistentvolumeclaims", f"--namespace={name}")["items"]
        assert [rendered.name(claim) for claim in claims] == ["chrek-pvc"]
        wide = live.get("clusterroles,clusterrolebindings,mutatingwebhookconfigurations")["items"]
        assert [rendered.name(d) for d in wide if rendered.name(d).startswith(name)] == []
