"""The life of a release, typed from the pages: install, check, use, look, move, upgrade, uninstall.

One installation serves all of these tests, which are one story, in the order of this file. The
worker has the identity that the pages print, so that its hash is the one that they print as well.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from chrek import errors
from e2e import documented, place, tiny
from showcase import agents, cluster, pods, setup
from store import registry_server, s3_server

NAMESPACE = "documented-team"
VALUES = {"storage": {"pvc": {"size": "100Gi"}}}
PODS = r"[a-z0-9-]+"
DIFFERS = errors.CompatibilityError.exit_code
AGE = r"\d+[smh](\d+s)?"


class Printed(tiny.Worker):
    """A tiny worker of the identity that the pages print."""

    @property
    def identity(self) -> dict[str, str]:
        return {**super().identity, "dtype": "bfloat16"}


WORKER = Printed("meta-llama/Llama-3-8B")


@pytest.fixture(scope="module")
def empty(
    live: cluster.Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[documented.Desk]:
    """A desk, and nothing that an earlier run has left."""
    there = f"--namespace={NAMESPACE}"

    def clean() -> None:
        live.helm("uninstall", setup.RELEASE, there, "--ignore-not-found")
        live.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=90s")

    clean()
    desk = documented.Desk.of(live, NAMESPACE, tmp_path_factory.mktemp("documented") / "desk")
    # Nodes have the images without a registry.
    desk = desk.filled(**{f"my-registry/{name}": name for name in ("chrek", "chrek-init")})
    for name in ("my-values.yaml", "values.yaml"):
        (desk.folder / name).write_text(yaml.safe_dump(VALUES))
    images = {f"my-registry/{name}": setup.image(name) for name in ("chrek", "chrek-init")}
    yield desk.filled(**{key: name.rpartition(":")[0] for key, name in images.items()})
    clean()


@pytest.fixture(scope="module")
def said_before(empty: documented.Desk) -> str:
    """What `chrek doctor` says of an installation that is still to come."""
    return empty.type(
        documented.one(
            "helm template chrek charts/chrek --namespace my-team --values my-values.yaml*"
        )
    )


@pytest.fixture(scope="module")
def here(live: cluster.Cluster, empty: documented.Desk, said_before: str) -> place.Place:
    """The release, as README installs it."""
    assert said_before
    said = empty.type(documented.one("helm install chrek charts/chrek*"), timeout=330)
    assert "STATUS: deployed" in said
    return place.Place(live, NAMESPACE)


@pytest.fixture(scope="module")
def desk(here: place.Place, empty: documented.Desk) -> Iterator[documented.Desk]:
    """With a worker that was restored, and a Deployment `my-llm` whose image is another."""
    assert WORKER.hash == "5941a4cb3c363457", "as the pages print it"
    here.capture(WORKER, node="n1")
    other = dataclasses.replace(WORKER, image="llama")
    labels = {"app": "my-llm"}
    marks = {"labels": labels, "annotations": {tiny.OPT_IN: WORKER.hash}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "my-llm"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": marks, "spec": other.spec()},
        },
    }
    here.live.apply(deployment, namespace=NAMESPACE)
    with here.pod(WORKER.pod("documented-warm", node="n2")) as warm:
        place.assert_warm(here.live, warm)
        (cold,) = here.ready_pods("app=my-llm", 1)
        pods.reported(here.live, cold)
        # It starts once more, so that there is a log of the container before.
        here.live.pod_request(cold, 8001, "/exit/3")
        here.wait_restarted(cold, 1)
        agent = agents.listed(here.live, NAMESPACE)[0]
        yield empty.filled(
            NAMESPACE=NAMESPACE,
            POD_NAMESPACE=NAMESPACE,
            EXPORTED_NAMESPACE=NAMESPACE,
            POD=pods.name(cold),
            NODE=pods.node(agent),
            AGENT_POD=pods.name(agent),
            CHECKPOINT=WORKER.hash,
            HASH=WORKER.hash,
            NAME=WORKER.hash,
            **{"<hash>": WORKER.hash, "<fullname>": setup.RELEASE},
        )


def test_before_an_installation(said_before: str) -> None:
    assert said_before.startswith(f"release chrek in namespace {NAMESPACE}\n")
    assert re.search(r"(?m)^doctor: all \d+ checks passed", said_before), said_before


def test_what_an_installation_makes(here: place.Place, empty: documented.Desk) -> None:
    made = "kubectl get pvc/chrek-pvc daemonset/chrek-agent deployment/chrek-operator -o name"
    assert len(empty.type(made).splitlines()) == 3


def test_pushing_images(desk: documented.Desk, tmp_path: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("optional: no skopeo here")
    with registry_server.running(tmp_path / "registry") as registry:
        there = f"--dest-tls-verify=false docker://{registry.host}"
        mine = desk.filled(**{"docker://my-registry": there})
        mine.type(documented.one("for image in chrek chrek-init; do*"))
        for name in ("chrek", "chrek-init"):
            tags = f"{registry.url}/v2/{name}/tags/list"
            with urllib.request.urlopen(tags, timeout=10) as answer:  # noqa: S310 - http
                assert json.load(answer)["tags"] == [setup.VERSION]


def test_helm_test(here: place.Place, empty: documented.Desk) -> None:
    said = empty.type(documented.one("helm test chrek --namespace my-team"), timeout=330)
    assert "Phase:          Succeeded" in said


def test_doctor(here: place.Place, empty: documented.Desk) -> None:
    command = documented.one("chrek doctor --namespace my-team")
    varying = {r"\d+": r"\d+", r"ext4": r"\w+", r"chrek-agent-n2g42": PODS}
    documented.assert_shown(command, empty.type(command), varying)


@pytest.mark.parametrize(
    "key", ["kubectl get dckpt -n my-team", "kubectl get dckpt 5941a4cb3c363457 -n my-team"]
)
def test_the_columns_of_checkpoints(desk: documented.Desk, key: str) -> None:
    command = documented.one(key)
    documented.assert_shown(command, desk.type(command), {r"\b5m\b": AGE})


def test_explain(desk: documented.Desk) -> None:
    command = documented.one("chrek explain deployment/my-llm --namespace my-team")
    varying = {
        "my-llm-0": r"my-llm-[a-z0-9-]+",
        "my-team": NAMESPACE,
        "817a04bcfb22182a": WORKER.hash,
        r"llm:1\b": re.escape(setup.image("chrek")),
        r"llm:2\b": re.escape(setup.image("llama")),
        "6s ago": rf"{AGE} ago",
    }
    documented.assert_shown(command, desk.type(command), varying)


SECTIONS = {
    "docs/runbooks.md#chrekrestoresfailing": "started cold: NoMatchingVariant",
    "docs/runbooks.md#chrekcolddespiteready": "image +ImageDiffers +captured ",
    "docs/runbooks.md#chrekstorenearlyfull": WORKER.hash,
    "docs/runbooks.md#chrekstorefailing": "chrek-pvc +Bound",
    "docs/runbooks.md#chrekcheckpointsuspect": tiny.STARTS,
    "docs/runbooks.md#chrekagentmissing": "(?m)^Name: +chrek-agent$",
    "docs/runbooks.md#chrekagentnotready": "chrek-agent-.* 1/1 +Running",
    "docs/runbooks.md#chrekpreflightfailed": "chrek-agent-.* 1/1 +Running",
    "docs/runbooks.md#chrekoperatorwithoutleader": "(?s)chrek-operator-.* 1/1 +Running.*HOLDER",
}
"""Section -> what its commands tell, together."""


@pytest.fixture(scope="module")
def told(desk: documented.Desk) -> dict[str, str]:
    """What commands have said: they only look, and several sections have the same."""
    return {}


def look(desk: documented.Desk, told: dict[str, str], command: documented.Command | str) -> str:
    line = desk.line(command)
    if line not in told:
        # As diff does, this one says by its exit code that there is something.
        differs = line.startswith("chrek diff ")
        told[line] = desk.type(line, code=DIFFERS if differs else 0)
    return told[line]


@pytest.mark.parametrize("key", SECTIONS)
def test_a_section_of_the_runbooks(desk: documented.Desk, told: dict[str, str], key: str) -> None:
    said = [look(desk, told, command) for command in documented.find(key)]
    assert all(said), "each has something to say"
    assert not any("No resources found" in text for text in said)
    assert re.search(SECTIONS[key], "\n".join(said)), said


LINES = {
    "chrek explain POD": "started cold: NoMatchingVariant",
    "chrek diff POD CHECKPOINT": "image +ImageDiffers +captured ",
    "chrek diff POD 5941a4cb3c363457": "image +ImageDiffers +captured ",
    "chrek show CHECKPOINT": WORKER.hash,
    "chrek show NAME --timeline": r"(?m)^ +dump +\d",
    "chrek doctor -n my-team": r"doctor: all \d+ checks passed",
    "kubectl describe dckpt NAME -n my-team": "(?m)^ +Phase: +Ready$",
    "kubectl get jobs -l nvidia.com/chrek-is-checkpoint-source=true -n my-team": " +Complete ",
    "kubectl logs job/checkpoint-HASH -n my-team": tiny.STARTS,
    "kubectl logs daemonset/chrek-agent -n my-team": '(?m)^{"time": ',
    'kubectl logs POD -n my-team | grep "Falling back to cold start"': "NoMatchingVariant",
    "kubectl exec AGENT_POD -n my-team -- ls -la /checkpoints/": WORKER.hash,
    "chrek prune --dry-run": "0 artifacts, 0, would go",
    "chrek prune --dry-run HASH": "1 artifact, .*, would be deleted",
    "kubectl get dynamocheckpoints": rf"(?m)^{WORKER.hash} ",
    "kubectl get dynamographdeployments": "No resources found in",
    "kubectl get pods": "documented-warm +1/1 +Running",
    "kubectl logs job/checkpoint-<hash>": tiny.STARTS,
    "kubectl logs deployment/<fullname>-operator": '(?m)^{"time": ',
    "kubectl annotate dckpt NAME chrek.nvidia.com/prewarm=true": "annotated",
}
"""Commands within the text, which only look or change nothing that counts here."""


def test_the_label_of_the_namespace(empty: documented.Desk, here: place.Place) -> None:
    said = empty.type(documented.one("kubectl label namespace my-team*"))
    assert said == f"namespace/{NAMESPACE} labeled\n"


@pytest.mark.parametrize("text", LINES)
def test_a_command_within_the_text(desk: documented.Desk, told: dict[str, str], text: str) -> None:
    assert re.search(LINES[text], said := look(desk, told, documented.one(text))), said


def test_reports(desk: documented.Desk) -> None:
    commands = documented.find("docs/report.md#the-report-chrek-report")
    desk.type(*commands)
    for name in ("report.html", "chrek-report.html"):
        text = (desk.folder / name).read_text()
        assert WORKER.hash in text
    assert "Benchmarks" in text


TRIES = (
    "chrek retry CHECKPOINT",
    "chrek retry NAME",
    'kubectl annotate dckpt NAME chrek.nvidia.com/retry="$(date)" --overwrite',
)


def test_another_try(here: place.Place, desk: documented.Desk) -> None:
    """Each of a checkpoint whose worker ends at once."""
    failing = {text: tiny.Worker(f"tiny/fails-{n}", dies="/bin/sh") for n, text in enumerate(TRIES)}
    wanted = [worker.checkpoint(backoff=0) for worker in failing.values()]
    here.live.apply(*wanted, namespace=NAMESPACE)
    for text, worker in failing.items():
        here.wait_phase(worker.hash, "Failed")
        desk.filled(NAME=worker.hash, CHECKPOINT=worker.hash).type(documented.one(text))
    for worker in failing.values():
        cluster.wait_until(
            lambda name=worker.hash: here.checkpoint(name)["status"].get("retried"),
            lambda name=worker.hash: f"the operator has seen it: {here.checkpoint(name)}",
            timeout=20,
        )
    here.remove(*(f"dckpt/{worker.hash}" for worker in failing.values()))


def test_a_right_for_the_time_of_an_import(desk: documented.Desk) -> None:
    make_role, bind, end = documented.find("charts/chrek/README.md#who-may-use-it")
    asked = "kubectl auth can-i patch dynamocheckpoints --subresource=status --as=jane"
    assert desk.run(asked).stdout == "no\n"
    desk.type(make_role, bind)
    assert desk.run(asked).stdout == "yes\n"
    desk.type(end)
    assert desk.run(asked).stdout == "no\n"


def test_secrets_and_an_authority(here: place.Place, desk: documented.Desk) -> None:
    (desk.folder / "ca.crt").write_text("an authority")
    mine = desk.filled(**{"...": "something"})
    mine.type(*documented.find("kubectl create secret*"))
    mine.type(documented.one("kubectl create configmap my-ca --from-file=ca.crt"))

    def data(path: str) -> dict[str, str]:
        found = here.live.get(f"/api/v1/namespaces/{NAMESPACE}/{path}")
        assert found is not None
        return dict(found["data"])

    assert set(data("secrets/s3-creds")) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert set(data("secrets/registry-creds")) == {".dockerconfigjson"}
    key = base64.b64decode(data("secrets/chrek-key")["key"])
    assert len(base64.b64decode(key)) == 32
    assert data("configmaps/my-ca") == {"ca.crt": "an authority"}


def test_an_upgrade(here: place.Place, desk: documented.Desk) -> None:
    said = desk.type(
        documented.one(
            "helm upgrade chrek charts/chrek --namespace my-team --values my-values.yaml"
        ),
        timeout=330,
    )
    assert "has been upgraded" in said
    assert here.checkpoint(WORKER.hash)["status"]["phase"] == "Ready"


AGAIN = "chrek copy /mnt/checkpoints s3://… --all"


@pytest.fixture
def servers(desk: documented.Desk, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The addresses of a bucket and of a repository, and folders with what opens them."""
    with contextlib.ExitStack() as stack:
        s3 = stack.enter_context(s3_server.running(tmp_path / "s3"))
        registry = stack.enter_context(registry_server.running(tmp_path / "oci", private=True))
        s3.make_bucket("my-bucket")
        (desk.folder / "aws").symlink_to(s3.secret())
        (desk.folder / "docker").symlink_to(registry.settings("checkpoints").credentialsPath)
        yield f"s3://{s3.host}/my-bucket/checkpoints", f"oci://{registry.host}/checkpoints"


def test_moving_checkpoints(
    here: place.Place, desk: documented.Desk, servers: tuple[str, str]
) -> None:
    """From the release's volume to a bucket and a registry, and by a file into it again."""
    s3, oci = servers
    digest = here.checkpoint(WORKER.hash)["status"]["variants"][0]["digest"]
    mine = desk.filled(**{"/mnt/checkpoints": f"{here.volume()}", "sha256:…": digest})
    plain = {"s3://my-bucket/checkpoints": f"{s3} --plain-http"}
    to = {"s3://my-bucket/checkpoints": f"{s3} --to-plain-http"}
    (desk.folder / "identity.yaml").write_text(yaml.safe_dump(WORKER.identity))
    copy, pipe, export, import_ = documented.find("docs/guides/stores.md#moving-checkpoints")
    assert digest in mine.filled(**to).type(copy)
    again = {"s3://…": f"{s3} --to-plain-http --to-credentials aws/"}
    assert "already there" in mine.filled(**again).type(documented.one(AGAIN))
    there = {"oci://myregistry.io/checkpoints": f"{oci} --plain-http"}
    assert digest in mine.filled(**there).type(pipe)
    assert digest in mine.filled(**plain).type(export)
    assert (desk.folder / "llama.tar.zst").stat().st_size
    verify = documented.one("chrek verify STORE HASH")
    mine.filled(STORE=f"{here.volume()}").type(verify)
    here.forget(WORKER)
    assert not (here.volume() / WORKER.hash).exists()
    assert digest in mine.type(import_)
    here.wait_phase("llama", "Ready")
    with here.pod(WORKER.pod("documented-moved", reference="llama")) as pod:
        place.assert_warm(here.live, pod)


def test_argo_cd(here: place.Place, desk: documented.Desk) -> None:
    """What Argo CD does not run: the test, and at last what stands before a deletion."""
    desk.type("kubectl delete pod chrek-test-round-trip --ignore-not-found")
    commands = documented.find("docs/gitops.md#argo-cd")
    last = next(n for n, command in enumerate(commands) if command.text.startswith("hook="))
    assert "\nround-trip: passed: " in desk.type(*commands[:last], timeout=330)
    said = desk.type(*commands[last:], timeout=330)
    assert "pre-delete: " in said
    assert "finalizers" not in here.checkpoint("llama")["metadata"]


def test_an_uninstallation(here: place.Place, desk: documented.Desk) -> None:
    said = desk.type(documented.one("helm uninstall chrek --namespace my-team"))
    assert "uninstalled" in said
    left = "kubectl get pvc,dckpt,dgd,daemonsets,deployments -o name"
    assert set(desk.type(left).split()) >= {"persistentvolumeclaim/chrek-pvc"}
    assert "chrek-" not in desk.type(left).replace("persistentvolumeclaim/chrek-pvc", "")
    desk.type(documented.one("kubectl delete dynamocheckpoints --all --namespace my-team"))
    desk.type(documented.one("kubectl delete pvc chrek-pvc --namespace my-team"))
    assert desk.type(left).split() == ["deployment.apps/my-llm"]
