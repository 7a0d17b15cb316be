"""values.schema.yaml, values.yaml and the templates know the same values."""

import json
import pathlib
import re

import jsonschema
import pytest
import yaml

from chart import rendered

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "chrek"
SCHEMA = yaml.safe_load((ROOT / "schemas" / "values.schema.yaml").read_text())

NOT_READ = {"global"}
"""Accepted and read by nothing, because Helm gives it to every chart."""


def resolve(node):
    if "$ref" in node:
        return {**SCHEMA["definitions"][node["$ref"].rpartition("/")[2]], **node}
    return node


def leaves(node, path=()):
    for key, child in node.get("properties", {}).items():
        found = resolve(child)
        if "default" in found:
            yield (*path, key), found
        else:
            yield from leaves(found, (*path, key))


LEAVES = dict(leaves(SCHEMA))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


def test_the_schema_is_a_valid_draft_07_schema():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"


def test_defaults_pass_the_schema():
    jsonschema.Draft7Validator(SCHEMA).validate(DEFAULTS)


def test_every_leaf_is_described():
    assert [
        ".".join(p) for p, node in LEAVES.items() if len(node.get("description", "")) < 10
    ] == []


def test_values_yaml_and_schema_have_the_same_keys():
    def paths(value, path=()):
        if path in LEAVES:
            yield path
        elif isinstance(value, dict):
            for key, child in value.items():
                yield from paths(child, (*path, key))
        else:
            yield path

    assert set(paths(DEFAULTS)) == set(LEAVES)


def objects(node, path="$"):
    """Every object schema that names properties, or is open, with its path."""
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield path, node
        for key, child in node.items():
            yield from objects(child, f"{path}.{key}")


def test_objects_are_strict():
    """An object of ours names its properties; Kubernetes' own are open and have no properties."""
    lax = [
        path
        for path, node in objects(SCHEMA)
        if "properties" in node and node.get("additionalProperties") is not False
    ]
    assert lax == []


def template_text():
    files = [*CHART.glob("templates/**/*.yaml"), *CHART.glob("templates/**/*.tpl")]
    files.append(CHART / "templates" / "NOTES.txt")
    return "\n".join(path.read_text() for path in files)


def used(path, text):
    """Whether a template reads a value, alone or as a part of an object that is read whole."""
    if path[0] == "dynamo-operator":
        names = [r"\$operator", r"\$checkpoint" if path[1:2] == ("checkpoint",) else r"\$operator"]
        rest = path[2:] if path[1:2] == ("checkpoint",) else path[1:]
        tail = r"\.".join(map(re.escape, rest))
        forms = [rf"{name}\.{tail}\b" for name in names]
        # `$storage` is the storage of `$checkpoint`.
        if rest[:1] == ("storage",):
            forms.append(r"\$storage\." + r"\.".join(map(re.escape, rest[1:])) + r"\b")
        # `$server` is whichever of these two is chosen.
        if rest[1:2] in (("s3",), ("oci",)):
            forms.append(rf"\$server\.{re.escape(rest[2])}\b")
        forms.append(r"fromJson\)\." + tail + r"\b")
        return any(re.search(form, text) for form in forms)
    whole = [r"\.Values\." + r"\.".join(map(re.escape, path)) + r"\b"]
    if path[0] in ("image", "initImage"):
        whole.append(rf"\$image\.{re.escape(path[-1])}\b")
    return any(re.search(form, text) for form in whole)


@pytest.mark.parametrize("path", sorted(p for p in LEAVES if p[0] not in NOT_READ), ids=".".join)
def test_every_value_is_read(path):
    assert used(path, template_text()), f"{'.'.join(path)} is accepted and ignored"


def test_every_value_that_is_read_exists():
    text = template_text()
    read = set(re.findall(r"\.Values\.([A-Za-z][A-Za-z0-9.]*[A-Za-z0-9])", text))
    known = {".".join(path[:n]) for path in LEAVES for n in range(1, len(path) + 1)}
    assert read - known == set()
    operator = {f"dynamo-operator.{p}" for p in re.findall(r"\$operator\.([A-Za-z.]+\w)", text)}
    assert operator - known == set()


@pytest.mark.helm
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set=surplus=1"], "additional properties 'surplus' not allowed"),
        (["--set=agent.logLvl=debug"], "additional properties 'logLvl' not allowed"),
        (["--set=storage.pvc.storageClass=a"], "additional properties 'storageClass' not allowed"),
        (["--set=dynamo-operator.checkpoint.storage.type=nfs"], "one of 'pvc', 's3', 'oci'"),
        (["--set=checkpoint.storage.s3.bucket=b"], "additional properties 'bucket' not allowed"),
        (["--set=checkpoint.storage.s3.uri=http://b"], "does not match pattern"),
        (["--set=checkpoint.storage.s3.uri=s3://b/ p"], "does not match pattern"),
        (["--set=checkpoint.storage.s3.endpoint=minio:9000"], "does not match pattern"),
        (["--set=checkpoint.storage.s3.endpoint=https://minio/path"], "does not match pattern"),
        (["--set=checkpoint.storage.s3.region=eu west"], "does not match pattern"),
        (["--set=checkpoint.storage.s3.plainHttp=maybe"], "got string, want boolean"),
        (["--set=checkpoint.storage.s3.caBundle=A"], "does not match pattern"),
        (["--set=checkpoint.storage.oci.endpoint=https://r"], "'endpoint' not allowed"),
        (["--set=checkpoint.storage.oci.uri=s3://b"], "does not match pattern"),
        (["--set-string=checkpoint.storage.cache.size=0"], "does not match pattern"),
        (["--set=checkpoint.storage.cache.size=100GB"], "does not match pattern"),
        (["--set=checkpoint.storage.cache.size=1.5Ti"], "does not match pattern"),
        (["--set-string=checkpoint.storage.housekeeping.maxBytes=0"], "does not match pattern"),
        (["--set=checkpoint.storage.housekeeping.maxBytes=1GB"], "does not match pattern"),
        (["--set-string=checkpoint.storage.housekeeping.unusedFor=30"], "does not match pattern"),
        (["--set=checkpoint.storage.housekeeping.unusedFor=P30D"], "does not match pattern"),
        (["--set=checkpoint.storage.housekeeping.nearlyFullPercent=0"], "minimum: got 0"),
        (["--set=checkpoint.storage.housekeeping.nearlyFullPercent=101"], "maximum: got 101"),
        (["--set=checkpoint.storage.housekeeping.maxSize=1"], "'maxSize' not allowed"),
        (["--set=checkpoint.storage.encryption.keySecretRef=A"], "does not match pattern"),
        (["--set=checkpoint.storage.oci.credentialsSecretRef=A"], "does not match pattern"),
        (["--set=checkpoint.storage.gcs.uri=b"], "additional properties 'gcs' not allowed"),
        (["--set=checkpoint.enabled=maybe"], "got string, want boolean"),
        (["--set=storage.pvc.size=big"], "does not match pattern"),
        (["--set=storage.pvc.accessModes={ReadOnlyMany}"], "value must be one of"),
        (["--set-json=storage.pvc.accessModes=[]"], "minItems: got 0, want 1"),
        (["--set=storage.pvc.name="], "does not match pattern"),
        (["--set=image.digest=sha256:12"], "does not match pattern"),
        (["--set=image.pullPolicy=Sometimes"], "value must be one of"),
        (["--set=initImage.tag=a:b"], "does not match pattern"),
        (["--set=fullnameOverride=Not_A_Label"], "does not match pattern"),
        (["--set=imagePullSecrets={a}"], "got string, want object"),
        (["--set=agent.logLevel=loud"], "value must be one of"),
        (["--set=agent.httpPort=70000"], "maximum: got 70,000, want 65,535"),
        (["--set=agent.maxConcurrentOperations=0"], "minimum: got 0, want 1"),
        (["--set=agent.ignoreDifferences={images}"], "value must be one of"),
        (["--set=secrets.envFromSecrets=Never"], "value must be one of"),
        (["--set=commonLabels.app\\.kubernetes\\.io/name=a"], "not"),
        (["--set=agent.nodes=some"], "value must be one of 'all', 'gpu'"),
        (["--set=agent.startupTaint=not-ready"], "does not match pattern"),
        (["--set=agent.startupTaint=a.b/c:NoSchedule"], "does not match pattern"),
        (["--set=agent.runtimeClassName=Nvidia"], "does not match pattern"),
        (["--set=agent.gpu.driverRoots={opt/nvidia}"], "does not match pattern"),
        (["--set=agent.gpu.lockTimeoutSeconds=0"], "minimum: got 0, want 1"),
        (["--set=agent.gpu.roots={/}"], "additional properties 'roots' not allowed"),
        (["--set=tests.gpu.when=true"], "got boolean, want string"),
        (["--set=tests.gpu.when=sometimes"], "one of 'auto', 'always', 'never'"),
        (["--set=tests.gpu.resourceName=gpu"], "does not match pattern"),
        (['--set-json=agent.extraArgs="--log-level=debug"'], "got string, want array"),
        (
            ['--set-json=checkpoint.prewarm=[{"name":"a","spec":{"identity":{}}}]'],
            "missing property 'job'",
        ),
        (
            ['--set-json=checkpoint.prewarm=[{"name":"A","spec":{"identity":{},"job":{}}}]'],
            "does not match pattern",
        ),
        (["--set=agent.dumpTimeoutSeconds=5m"], "got string, want integer"),
        (["--set=agent.updateStrategy.maxUnavailable=0%"], "does not match pattern"),
        (['--set-json=agent.nodeSelector={"a":true}'], "got boolean, want string"),
        (['--set-json=agent.extraEnv=[{"value":"a"}]'], "missing property 'name'"),
        (["--set=agent.resources.request.cpu=1"], "additional properties 'request' not allowed"),
        (["--set=dynamo-operator.replicas=0"], "minimum: got 0, want 1"),
        (["--set=dynamo-operator.webhookTimeoutSeconds=10"], "maximum: got 10, want 3"),
        (["--set=dynamo-operator.watchNamespaces={A}"], "does not match pattern"),
        (["--set=dynamo-operator.watchNamespaces={a,a}"], "items at 0 and 1 are equal"),
        (["--set=hooks.maxUnavailableNodes=ten"], "does not match pattern"),
        (["--set=hooks.maxUnavailableNodes=-1"], "minimum: got -1, want 0"),
        (
            ['--set-json=checkpoint.identities=[{"backendFramework":"vllm"}]'],
            "missing property 'model'",
        ),
        (
            ['--set-json=checkpoint.identities=[{"model":"m","backendFramework":"tgi"}]'],
            "value must be one of 'vllm', 'sglang', 'trtllm'",
        ),
        (['--set-json=checkpoint.identities=[{"model":"m"}]'], "anyOf"),
    ],
    ids=lambda value: value[0].partition("=")[2] if isinstance(value, list) else "",
)
def test_the_schema_refuses(helm, flags, said):
    refusal = helm.refusal(*flags)
    assert "values don't meet the specifications of the schema" in refusal
    assert said in refusal


def test_the_schema_is_small_enough_for_a_release():
    """Helm stores the chart in each release's Secret."""
    assert len(json.dumps(SCHEMA)) < 40_000


def test_what_the_page_says_of_metrics_renders(helm, tmp_path):
    blocks = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "guides" / "operations.md").read_text(), re.DOTALL
    )
    (text,) = [block for block in blocks if "podMonitor" in block]
    file = tmp_path / "values.yaml"
    file.write_text(text)
    documents = helm.template(f"--values={file}")
    (monitor,) = rendered.of_kind(documents, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    policies = rendered.of_kind(documents, "NetworkPolicy")
    peers = [policy["spec"].get("ingress", [{}])[0].get("from") for policy in policies]
    wanted = yaml.safe_load(text)["networkPolicy"]["metricsFrom"]
    assert peers == [wanted, wanted, None]
