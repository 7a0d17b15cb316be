"""Both user's guides, line by line: their objects against the API server, their values against the
chart.

`tests/fixtures/guides` holds their YAML as printed. Parts of an object are completed: a
`checkpoint:` section, and services with nothing else, get the worker of the same guide's first
DynamoGraphDeployment around them.
"""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from chrek import identity, names
from cluster import admission, kube, operator_process

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings(admission.WARNING)]
REPOSITORY = Path(__file__).resolve().parents[2]
GUIDES = REPOSITORY / "tests" / "fixtures" / "guides"
CHART = REPOSITORY / "charts" / "chrek"
EDITIONS = ("newer", "older")

Object = dict[str, Any]


def documents(kind: str, edition: str) -> list[Object]:
    text = (GUIDES / f"{kind}-{edition}.yaml").read_text()
    return [document for document in yaml.safe_load_all(text) if document]


def completed(part: Object, edition: str) -> Object:
    """The DynamoGraphDeployment that a part of one stands for."""
    graphs = [d for d in documents("objects", edition) if d["kind"] == names.GRAPH_KIND]
    whole = copy.deepcopy(graphs[0])
    (worker,) = whole["spec"]["services"].values()
    services = part["spec"]["services"] if "spec" in part else {"VllmWorker": part}
    whole["spec"]["services"] = {name: {**worker, **body} for name, body in services.items()}
    return whole


def objects() -> list[Any]:
    """Every object of both guides, as pytest parameters."""
    made = []
    for edition in EDITIONS:
        found = [*documents("objects", edition), *documents("complete", edition)]
        found += [completed(part, edition) for part in documents("sections", edition)]
        for number, item in enumerate(found):
            name = f"{edition}-{number}-{item['kind']}-{item['metadata']['name']}"
            made.append(pytest.param(item, id=name))
    return made


def values() -> list[Any]:
    """Every block of values of both guides, as pytest parameters."""
    return [
        pytest.param(block, id=f"{edition}-{number}-{storage(block)['type']}")
        for edition in EDITIONS
        for number, block in enumerate(documents("values", edition))
    ]


def storage(block: Object) -> Object:
    found: Object = block.get("dynamo-operator", block)["checkpoint"]["storage"]
    return found


@pytest.fixture(scope="module")
def server(namespaced: kube.Kube) -> kube.Kube:
    operator_process.install_crds(namespaced)
    return namespaced


@pytest.fixture(scope="module")
def asked(server: kube.Kube) -> admission.Admission:
    return admission.Admission(server)


@pytest.mark.parametrize("item", objects())
def test_an_object_is_taken_as_printed(asked: admission.Admission, item: Object) -> None:
    # The guides' namespace is not there; what is asked about is the object.
    here = {**item, "metadata": {**item["metadata"], "namespace": asked.namespace}}
    made = asked.create(here)
    for key in item.get("spec", ()):
        assert contains(made["spec"][key], item["spec"][key]), "nothing of it is dropped"


def contains(stored: Any, written: Any) -> bool:
    """Whether what was written is there, beside defaults."""
    if isinstance(written, dict):
        return all(key in stored and contains(stored[key], written[key]) for key in written)
    if isinstance(written, list):
        return len(stored) == len(written) and all(map(contains, stored, written))
    return bool(stored == written)


def test_the_parts_and_objects_are_all_there() -> None:
    assert len(objects()) == 18
    assert len(values()) == 10
    for edition in EDITIONS:
        kinds = [item["kind"] for item in documents("complete", edition)]
        assert kinds == [names.CHECKPOINT_KIND, names.GRAPH_KIND]


def test_both_guides_mean_the_same_identities() -> None:
    """The older names are aliases: but for the version field, the hashes are equal."""

    def hashes(edition: str) -> list[str]:
        whole = [*documents("objects", edition), *documents("complete", edition)]
        raws = [d["spec"]["identity"] for d in whole if d["kind"] == names.CHECKPOINT_KIND]
        sections = [part.get("checkpoint", {}) for part in documents("sections", edition)]
        raws += [section["identity"] for section in sections if "identity" in section]
        return [
            identity.parse({key: raw[key] for key in raw if not key.endswith("Version")}).hash()
            for raw in raws
        ]

    assert hashes("newer") == hashes("older")
    assert hashes("newer")[0] == "5941a4cb3c363457"


@pytest.mark.parametrize("block", values())
def test_the_schema_of_the_values_takes_every_block(block: Object) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(block)


@pytest.fixture(scope="module")
def helm(server: kube.Kube) -> Path:
    found: Path = server.where.bin / "helm"
    return found


def template(helm: Path, block: Object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [helm, "template", "chrek", CHART, "--namespace=my-team", "--values=-"],
        input=yaml.safe_dump(block),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("block", values())
def test_a_block_renders(helm: Path, block: Object) -> None:
    done = template(helm, block)
    assert done.returncode == 0, done.stderr
    rendered = [document for document in yaml.safe_load_all(done.stdout) if document]
    agents = next(document for document in rendered if document["kind"] == "DaemonSet")
    assert agents["metadata"]["name"] == "chrek-agent", "kubectl logs daemonset/chrek-agent"
    volumes = agents["spec"]["template"]["spec"]["volumes"]
    claims = [
        v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v
    ]
    kind = storage(block)["type"]
    wanted = storage(block)[kind]
    if kind != "pvc":
        secrets = [v["secret"]["secretName"] for v in volumes if "secret" in v]
        assert secrets == [wanted["credentialsSecretRef"]]
        assert claims == []
        assert all(document["kind"] != "PersistentVolumeClaim" for document in rendered)
        return
    assert claims == [wanted["pvcName"]]
    mounts = agents["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert wanted["basePath"] in [mount["mountPath"] for mount in mounts]
    signals = storage(block).get("signalHostPath", "/var/lib/chrek/signals")
    hosts = [volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume]
    assert any(path == signals or path.startswith(f"{signals}/") for path in hosts)
    made = [d["metadata"]["name"] for d in rendered if d["kind"] == "PersistentVolumeClaim"]
    # The older guide has the reader make its claim.
    assert made == (["chrek-pvc"] if wanted["pvcName"] == "chrek-pvc" else [])


def test_the_guides_first_command_renders(helm: Path) -> None:
    done = subprocess.run(
        [helm, "template", "chrek", CHART, "--namespace=my-team", "--set=storage.pvc.size=100Gi"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rendered = [document for document in yaml.safe_load_all(done.stdout) if document]
    claim = next(d for d in rendered if d["kind"] == "PersistentVolumeClaim")
    assert claim["metadata"]["name"] == "chrek-pvc"
    assert claim["spec"]["resources"]["requests"]["storage"] == "100Gi"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
