"""The commands of examples/README.md against the API server, by a dry run and without a warning.

The API server does not look into pods that stand in objects of chrek's: each is asked about on its
own as well.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chrek import names
from cluster import kube, operator_process
from e2e import documented

pytestmark = pytest.mark.cluster
REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"
OBJECTS = (
    "checkpoint",
    "dgd-auto",
    "dgd-reference",
    "kserve-like",
    "llama-cpp",
    "my-llm",
    "sglang",
    "standalone-deployment",
    "vllm",
)
VALUES = ("values-oci", "values-prewarm", "values-s3")

Object = dict[str, Any]


@pytest.fixture(scope="module")
def server(namespaced: kube.Kube) -> kube.Kube:
    operator_process.install_crds(namespaced)
    return namespaced


def documents(name: str) -> list[Object]:
    text = (EXAMPLES / f"{name}.yaml").read_text()
    return [document for document in yaml.safe_load_all(text) if document]


def prewarmed(name: str) -> list[Object]:
    """The DynamoCheckpoints that a release with these values makes."""
    (values,) = documents(name)
    entries = values["dynamo-operator"]["checkpoint"].get("prewarm", [])
    return [
        {
            "apiVersion": names.API_VERSION,
            "kind": names.CHECKPOINT_KIND,
            "metadata": {"name": entry["name"]},
            "spec": entry["spec"],
        }
        for entry in entries
    ]


def pod_specs(item: Object) -> list[Object]:
    if item["kind"] == names.CHECKPOINT_KIND:
        return [item["spec"]["job"]["podTemplateSpec"]["spec"]]
    if item["kind"] != names.GRAPH_KIND:
        return []
    made = []
    for service in item["spec"]["services"].values():
        rest = dict(service["extraPodSpec"])
        main = {"name": "main", **rest.pop("mainContainer"), "resources": service["resources"]}
        made.append({"containers": [main], **rest})
    return made


def dry_run(server: kube.Kube, *words: str, text: str) -> list[str]:
    """What kubectl says to an apply that changes nothing, line by line; no warning is among it."""
    done = subprocess.run(
        server.argv("apply", "--dry-run=server", "--validate=strict", *words),
        cwd=REPOSITORY,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no warning"
    return done.stdout.splitlines()


def ask(server: kube.Kube, items: list[Object]) -> None:
    """A dry run of objects that no file holds as they are."""
    lines = dry_run(server, "--filename=-", text=yaml.safe_dump_all(items))
    assert len(lines) == len(items)


def pods(items: list[Object]) -> list[Object]:
    specs = [spec for item in items for spec in pod_specs(item)]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": spec}
        for number, spec in enumerate(specs)
    ]


def test_every_file_is_here() -> None:
    found = {path.stem for path in EXAMPLES.glob("*.yaml")}
    assert found == {*OBJECTS, *VALUES}


@pytest.fixture
def desk(server: kube.Kube, tmp_path: Path) -> documented.Desk:
    made = documented.Desk.made(
        tmp_path / "desk",
        tools=os.fspath(server.where.bin),
        KUBECONFIG=os.fspath(server.where.kubeconfig),
    )
    return made.filled(**{"my-team": server.namespace})


@pytest.mark.parametrize("name", OBJECTS)
def test_the_command_of_a_file_is_taken(desk: documented.Desk, name: str) -> None:
    commands = documented.find("kubectl apply -n my-team -f examples/*")
    (command,) = [one for one in commands if one.text.endswith(f"/{name}.yaml")]
    done = desk.run(f"{command.text} --dry-run=server --validate=strict")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no warning"
    lines = done.stdout.splitlines()
    wanted = [
        f"{item['kind'].lower()}{suffix(item)}/{item['metadata']['name']} created (server dry run)"
        for item in documents(name)
    ]
    assert lines == wanted


def test_every_file_has_a_command() -> None:
    assert len(documented.find("kubectl apply -n my-team -f examples/*")) == len(OBJECTS)


@pytest.mark.parametrize("name", VALUES)
def test_the_command_of_values_is_taken(desk: documented.Desk, name: str) -> None:
    """Rendered with what the API server knows, each object asked about by a dry run."""
    commands = documented.find("helm upgrade --install chrek charts/chrek -n my-team -f examples/*")
    (command,) = [one for one in commands if one.text.endswith(f"/{name}.yaml")]
    said = desk.type(f"{command.text} --dry-run=server")
    assert "STATUS: pending-install" in said
    assert "kind: DaemonSet" in said


def suffix(item: Object) -> str:
    """The group, as kubectl prints it."""
    return "." + str(item["apiVersion"]).partition("/")[0]


@pytest.mark.parametrize("name", OBJECTS)
def test_the_pods_of_a_file_are_taken(server: kube.Kube, name: str) -> None:
    found = pods(documents(name))
    if found:
        ask(server, found)
    else:
        assert {item["kind"] for item in documents(name)} == {"Deployment"}, "asked as it is"


def test_what_the_release_makes_is_taken(server: kube.Kube) -> None:
    made = prewarmed("values-prewarm")
    assert made
    ask(server, made)
    ask(server, pods(made))
