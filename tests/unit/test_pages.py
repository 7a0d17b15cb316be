"""What pages print: objects and values that are taken, hashes that are right, names that exist."""

import pathlib
import re

import jsonschema
import pytest
import yaml

from chrek import eligibility, identity, names, worker
from chrek.operator import adoption
from fakes import crd_schemas

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "charts" / "chrek" / "README.md", *sorted(DOCS.rglob("*.md"))]
FOREIGN = {"Application", "GitRepository", "HelmRelease"}
"""Kinds of other projects; tests/chart/gitops.py applies what they say."""
PARTS = {
    "checkpoint": (names.GRAPH_KIND, "spec", "services", "*"),
    "spec": (names.CHECKPOINT_KIND,),
}
"""First key of a part of an object -> kind, and the path of keys to what the part belongs into."""
VALUES_SCHEMA = yaml.safe_load((ROOT / "charts" / "chrek" / "values.schema.json").read_text())


def documents():
    """Page, number and content of every YAML document that a page prints."""
    for page in PAGES:
        blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        found = [document for block in blocks for document in yaml.safe_load_all(block)]
        for number, document in enumerate(found):
            name = f"{page.relative_to(ROOT)}-{number}"
            yield pytest.param(document, id=name)


def check(schema, document):
    """Raise unless a document is valid as far as it goes: a part need not be complete."""
    found = jsonschema.Draft7Validator(schema).iter_errors(document)
    wrong = [one.message for one in found if one.validator != "required"]
    assert not wrong, wrong


def below(schema, path):
    for key in path:
        schema = schema["additionalProperties"] if key == "*" else schema["properties"][key]
    return schema


def is_values(document):
    keys = VALUES_SCHEMA["properties"]
    of_values = "storage" in document.get("checkpoint", {"storage": ""})
    return "kind" not in document and of_values and keys.keys() >= set(document)


@pytest.mark.parametrize("document", [*documents()])
def test_a_block_of_yaml_is_taken(document):
    kind = document.get("kind")
    if kind in FOREIGN:
        return
    if kind in crd_schemas.STRICT:
        jsonschema.Draft7Validator(crd_schemas.STRICT[kind]).validate(document)
    elif kind == "Deployment":
        template = document["spec"]["template"]
        adoption.parse(template["metadata"]["annotations"][names.ANNOTATION_IDENTITY])
        (container,) = template["spec"]["containers"]
        eligibility.check(template["spec"], container)
    elif is_values(document):
        check(VALUES_SCHEMA, document)
    else:
        assert kind is None, "a kind that nothing here knows"
        (key,) = document
        kind, *path = PARTS[key]
        check(below(crd_schemas.STRICT[kind], path), document)


def test_a_part_with_a_wrong_field_is_refused():
    schema = below(crd_schemas.STRICT[names.GRAPH_KIND], PARTS["checkpoint"][1:])
    check(schema, {"checkpoint": {"enabled": True}})
    with pytest.raises(AssertionError, match="checkpointReff"):
        check(schema, {"checkpoint": {"enabled": True, "checkpointReff": "x"}})


@pytest.mark.parametrize(
    ("page", "name", "hashed"),
    [
        ("guides/dynamo.md", names.CHECKPOINT_KIND, "5941a4cb3c363457"),
        ("guides/dynamo.md", names.GRAPH_KIND, "5941a4cb3c363457"),
        ("guides/deployments.md", "Deployment", "4a5f6cbea582b088"),
    ],
)
def test_a_hash_of_a_page_is_that_of_its_identity(page, name, hashed):
    text = (DOCS / page).read_text()
    assert hashed in text
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (item,) = [d for d in map(yaml.safe_load, blocks) if d.get("kind") == name]
    if name == names.CHECKPOINT_KIND:
        raw = item["spec"]["identity"]
    elif name == names.GRAPH_KIND:
        (service,) = item["spec"]["services"].values()
        raw = service["checkpoint"]["identity"]
    else:
        annotations = item["spec"]["template"]["metadata"]["annotations"]
        raw = yaml.safe_load(annotations[names.ANNOTATION_IDENTITY])
    assert identity.parse(raw).hash() == hashed


def test_every_name_has_its_line():
    text = (DOCS / "reference" / "names.md").read_text()
    wanted = {
        value
        for key, value in vars(names).items()
        if re.match(r"(ANNOTATION|LABEL|ENV)_[A-Z_]+$", key) and isinstance(value, str)
    }
    wanted |= names.LABEL_ALIASES.keys()
    assert len(wanted) > 20
    assert {name for name in wanted if f"`{name}`" not in text} == set()


def test_every_field_of_an_identity_has_its_line():
    text = (DOCS / "guides" / "dynamo.md").read_text()
    schema = below(crd_schemas.STRICT[names.CHECKPOINT_KIND], ("spec", "identity"))
    assert {field for field in schema["properties"] if f"`{field}`" not in text} == set()


def test_every_phase_has_its_line():
    text = (DOCS / "guides" / "dynamo.md").read_text()
    assert {str(phase) for phase in names.Phase if f"| `{phase}` |" not in text} == set()


NOT_OURS = {
    *("ReadWriteMany", "ReadWriteOnce", "IfNotPresent", "ContainerCheckpoint", "MemAvailable"),
    *("PreSync", "PostSync", "PreDelete", "PostDelete"),  # Argo CD
    *("RequireAcknowledgement", "ChrekError"),
}
"""Words in capitals that are no Reason: of Kubernetes and others, of values, of the code."""


def test_a_word_that_looks_like_a_reason_is_one():
    alerts = (ROOT / "charts" / "chrek" / "files" / "alerts.yaml").read_text()
    known = NOT_OURS | crd_schemas.STRICT.keys() | set(re.findall(r"- alert: (\w+)", alerts))
    for words in (names.Reason, names.Phase, names.StartupPolicy, names.DeletionPolicy):
        known |= {str(word) for word in words}
    pattern = re.compile(r"`([A-Z][a-z]+(?:[A-Z][a-z0-9]*)+)(?=[`:])")
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "examples").rglob("*.md")]
    unknown = {
        (page.name, word)
        for page in pages
        for word in pattern.findall(page.read_text())
        if word not in known
    }
    assert not unknown


def test_the_module_for_workers_is_described_whole():
    text = (DOCS / "reference" / "worker.md").read_text()
    described = re.findall(r"^\.\. auto(?:function|decorator|class):: (\w+)$", text, re.MULTILINE)
    assert sorted(described) == sorted(worker.__all__)
