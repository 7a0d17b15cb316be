"""The files of examples/, without a cluster: schemas, chart, hashes, sizes and what chrek reads."""

import json
import pathlib
import re
import shutil
import subprocess

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from chrek import cli, eligibility, identity, names
from chrek.operator import adoption, podshape
from fakes import crd_schemas

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
CHART = ROOT / "charts" / "chrek"
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
DEVICE = {
    "dgd-auto": 72,
    "dgd-reference": 72,
    "kserve-like": 72,
    "llama-cpp": 10,
    "sglang": 17.5,
    "standalone-deployment": 24,
    "values-prewarm": 17.5,
    "vllm": 17.5,
}
"""GiB on the GPU when it is captured, as docs/gpu.md reckons."""
OWN = {"llama-cpp": 4}
"""GiB of a worker's own memory where it is not PyTorch's 8."""


def documents(name):
    text = (EXAMPLES / f"{name}.yaml").read_text()
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(name, kind):
    return [document for document in documents(name) if document.get("kind") == kind]


def section(name):
    """The part of a values file below `dynamo-operator.checkpoint`."""
    (values,) = documents(name)
    return values["dynamo-operator"]["checkpoint"]


def checkpoints(name):
    """The specs of a file's DynamoCheckpoints, those of values included."""
    if name in VALUES:
        return [entry["spec"] for entry in section(name).get("prewarm", [])]
    return [found["spec"] for found in of_kind(name, names.CHECKPOINT_KIND)]


def services(name):
    graphs = of_kind(name, names.GRAPH_KIND)
    return [service for graph in graphs for service in graph["spec"]["services"].values()]


def deployed(name):
    """The pod templates of a file's Deployments."""
    return [found["spec"]["template"] for found in of_kind(name, "Deployment")]


def pod_specs(name):
    """Every pod's spec in a file, with the resources where a pod has them."""
    found = [spec["job"]["podTemplateSpec"]["spec"] for spec in checkpoints(name)]
    found += [template["spec"] for template in deployed(name)]
    for service in services(name):
        rest = dict(service["extraPodSpec"])
        main = {"name": "main", **rest.pop("mainContainer"), "resources": service["resources"]}
        found.append({"containers": [main], **rest})
    return found


def identities(name):
    found = [spec["identity"] for spec in checkpoints(name)]
    sections = [service["checkpoint"] for service in services(name)]
    found += [part["identity"] for part in sections if "identity" in part]
    for template in deployed(name):
        text = template["metadata"]["annotations"].get(names.ANNOTATION_IDENTITY)
        found += [adoption.parse(text)[0]] if text else []
    return found


def table():
    """File and command of each row of the README's table."""
    rows = re.findall(
        r"^\| \[(\S+)\]\((\S+)\) \| .+ \| `(.+)` \|$",
        (EXAMPLES / "README.md").read_text(),
        re.MULTILINE,
    )
    assert all(shown == linked for shown, linked, _ in rows)
    return {linked: command for _, linked, command in rows}


def test_every_file_is_tested_and_in_the_table():
    found = {path.name for path in EXAMPLES.glob("*.yaml")}
    assert found == {f"{name}.yaml" for name in (*OBJECTS, *VALUES)}
    assert found == set(table())
    for name, command in table().items():
        assert command.endswith(f"-f examples/{name}"), command


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_fit_their_schemas(name):
    assert documents(name)
    for item in documents(name):
        assert "namespace" not in item["metadata"], "the command says which"
        if item["kind"] == "Deployment":
            assert item["apiVersion"] == "apps/v1"
            continue
        assert item["apiVersion"] == names.API_VERSION
        jsonschema.Draft7Validator(crd_schemas.STRICT[item["kind"]]).validate(item)


@pytest.mark.parametrize("name", VALUES)
def test_values_fit_their_schemas(name):
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(documents(name)[0])
    for spec in checkpoints(name):
        jsonschema.Draft7Validator(crd_schemas.STRICT[names.CHECKPOINT_KIND]).validate(
            {"spec": spec}
        )


def test_a_field_that_is_not_there_is_found():
    item = of_kind("vllm", names.CHECKPOINT_KIND)[0]
    item["spec"]["job"]["backofLimit"] = 1
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.Draft7Validator(crd_schemas.STRICT[names.CHECKPOINT_KIND]).validate(item)


@pytest.mark.helm
@pytest.mark.parametrize("name", VALUES)
def test_the_command_of_values_renders(name):
    helm = shutil.which("helm")
    if not helm:
        pytest.skip("no helm: run scripts/cluster tools")
    words = table()[f"{name}.yaml"].split()
    assert words[:3] == ["helm", "upgrade", "--install"]
    done = subprocess.run(
        [helm, "template", *words[3:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rendered = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert [d for d in rendered if d["kind"] == "DaemonSet"]
    if name == "values-prewarm":
        (entry,) = section(name)["prewarm"]
        hook = [d for d in rendered if entry["name"] in json.dumps(d)]
        assert hook, "the hooks make it"


@pytest.mark.parametrize("name", [*OBJECTS, *VALUES])
def test_hashes_are_those_of_chrek_hash(name):
    """Every hash that is written, and no identity without one (but in the first two examples)."""
    path = EXAMPLES / f"{name}.yaml"
    written = set(re.findall(r"\b[0-9a-f]{16}\b", path.read_text()))
    meant = {identity.parse(raw).hash() for raw in identities(name)}
    assert written == (set() if name in ("checkpoint", "my-llm") else meant)
    if of_kind(name, names.CHECKPOINT_KIND) or name in ("dgd-auto", "my-llm"):
        done = CliRunner().invoke(cli.main, ["hash", str(path)])
        assert done.exit_code == 0, done.output
        assert {line.split()[0] for line in done.output.splitlines()} == meant


def test_identities_are_told_apart():
    """Each file's is its own, so that all can be applied to one namespace."""
    every = [
        digest
        for name in (*OBJECTS, *VALUES)
        for digest in {identity.parse(raw).hash() for raw in identities(name)}
    ]
    assert len(every) == len(set(every)) == 10


@pytest.mark.parametrize("name", [*OBJECTS, *VALUES])
def test_chrek_would_take_every_pod(name):
    for spec in pod_specs(name):
        wanted = None
        for template in deployed(name):
            wanted = template["metadata"]["annotations"].get(names.ANNOTATION_CONTAINER)
        container = spec["containers"][podshape.container_index(spec, wanted)]
        podshape.check(spec, container)
        assert eligibility.secret_variables(container) == (), "no secret gets into an artifact"
        assert not container["image"].endswith((":latest", ":main"))
        assert re.search(r":[^/]*\d", container["image"]), "a pinned tag"


@pytest.mark.parametrize("name", sorted(DEVICE))
def test_memory_holds_what_is_on_the_gpu(name):
    assert pod_specs(name)
    for spec in pod_specs(name):
        resources = spec["containers"][0]["resources"]
        assert resources["limits"]["nvidia.com/gpu"] == "1"
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        limit = int(resources["limits"]["memory"].removesuffix("Gi"))
        assert OWN.get(name, 8) + 1.1 * DEVICE[name] <= limit


@pytest.mark.parametrize("name", OBJECTS)
def test_pods_are_the_captured_ones(name):
    """What `CommandDiffers` and the like compare is equal, and what refers is there."""
    made = {item["metadata"]["name"]: item for item in of_kind(name, names.CHECKPOINT_KIND)}
    for template in deployed(name):
        reference = template["metadata"]["annotations"].get(names.ANNOTATION_CHECKPOINT)
        if reference:
            assert template["spec"] == made[reference]["spec"]["job"]["podTemplateSpec"]["spec"]
    for service in services(name):
        reference = service["checkpoint"].get("checkpointRef")
        if not reference:
            continue
        captured = made[reference]["spec"]["job"]["podTemplateSpec"]["spec"]
        main = dict(captured["containers"][0])
        assert service["resources"] == main["resources"]
        assert service["extraPodSpec"]["volumes"] == captured["volumes"]
        wanted = service["extraPodSpec"]["mainContainer"]
        assert {key: main[key] for key in wanted} == wanted
    for item in of_kind(name, "Deployment"):
        labels = item["spec"]["template"]["metadata"]["labels"]
        assert item["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("vllm", "llama-8b-vllm"),
        ("values-prewarm", "llama-8b-vllm"),
        ("sglang", "llama-8b-sglang"),
        ("llama-cpp", "llama-8b-llamacpp"),
    ],
)
def test_recipes_are_those_of_the_engines_page(name, recipe):
    text = (ROOT / "docs" / "engines.md").read_text()
    blocks = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    (printed,) = [b for b in blocks if b.get("metadata", {}).get("name") == recipe]
    (spec,) = checkpoints(name)
    for call in ("quiesce", "wake"):
        assert spec.get(call) == printed["spec"].get(call)
    pods = [part["job"]["podTemplateSpec"]["spec"] for part in (spec, printed["spec"])]
    here, there = (pod["containers"][0] for pod in pods)
    assert here["resources"] == there["resources"]
    assert here["image"].partition(":")[0] == there["image"].partition(":")[0]
    assert here.get("env") == there.get("env")
    if name != "values-prewarm":
        assert identity.parse(spec["identity"]) == identity.parse(printed["spec"]["identity"])
