"""Each kind of store: what is rendered for it, who can open it, and which values are refused."""

import json
import pathlib
import re

import pytest
import yaml

from chart import rendered
from chrek import config, errors
from chrek.checks import settings
from chrek.remote import uri

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUIDES = ROOT / "tests" / "fixtures" / "guides"
PATH = "dynamo-operator.checkpoint.storage"
OPENS = {"store-credentials", "store-ca", "encryption"}
"""Volumes that open a server."""

pytestmark = [pytest.mark.helm, pytest.mark.chart]

S3 = {
    "type": "s3",
    "s3": {
        "uri": "s3://bucket/prefix/",
        "endpoint": "https://minio:9000",
        "region": "eu-west-1",
        "credentialsSecretRef": "creds",
        "caBundle": "authorities",
    },
    "cache": {"hostPath": "/mnt/cache", "size": "3Mi"},
    "encryption": {"keySecretRef": "secret-key"},
}
OCI = {
    "type": "oci",
    "oci": {
        "uri": "oci://registry:5000/team/checkpoints",
        "credentialsSecretRef": "creds",
        "caBundle": "authorities",
        "plainHttp": True,
    },
    "encryption": {"keySecretRef": "secret-key"},
}


def values(storage):
    return f"--set-json=checkpoint.storage={json.dumps(storage)}"


def load(documents, tmp_path):
    """What agent and operator read, and the Job that deletes."""
    (found,) = rendered.maps_with(documents, "agent.yaml")
    for key, text in found["data"].items():
        (tmp_path / key).write_text(text)
    return (
        config.load(tmp_path / "agent.yaml", config.AgentConfig),
        config.load(tmp_path / "operator.yaml", config.OperatorConfig),
        yaml.safe_load(found["data"]["deletion-job.yaml"]),
    )


def blocks():
    """Every block of values of both user's guides, and the older one's S3 with both URIs."""
    printed = """
checkpoint:
  storage:
    type: s3
    s3:
      # AWS S3
      uri: "s3://my-bucket/checkpoints"

      # Or MinIO / custom S3
      uri: "s3://minio.example.com/my-bucket/checkpoints"

      # Optional: credentials secret
      credentialsSecretRef: "s3-creds"
"""
    found = [pytest.param(printed, id="as-printed")]
    for path in sorted(GUIDES.glob("values-*.yaml")):
        texts = path.read_text().split("\n---\n")
        found += [pytest.param(text, id=f"{path.stem}-{n}") for n, text in enumerate(texts)]
    return found


def test_the_blocks_are_all_there():
    assert len(blocks()) == 11


@pytest.mark.parametrize("text", blocks())
def test_a_block_of_the_guides_renders(helm, tmp_path, text):
    (tmp_path / "values.yaml").write_text(text)
    documents = helm.template(f"--values={tmp_path / 'values.yaml'}")
    printed = yaml.safe_load(text)
    storage = printed.get("dynamo-operator", printed)["checkpoint"]["storage"]
    agent, operator, _ = load(documents, tmp_path)
    kind = storage["type"]
    assert agent.storage.type == operator.storage.type == kind
    if kind == "pvc":
        assert agent.storage.pvc.basePath == storage["pvc"]["basePath"]
        return
    chosen, told = getattr(agent.storage, kind), getattr(operator.storage, kind)
    assert chosen.uri == told.uri == storage[kind]["uri"]
    assert chosen.credentialsPath == "/etc/chrek/store-credentials"
    assert agent.storage.encryption.keyPath == ""
    (daemon_set,) = rendered.of_kind(documents, "DaemonSet")
    volumes = {v["name"]: v for v in daemon_set["spec"]["template"]["spec"]["volumes"]}
    secret = volumes["store-credentials"]["secret"]
    assert secret == {"secretName": storage[kind]["credentialsSecretRef"], "defaultMode": 0o400}


@pytest.mark.parametrize("path", ["docs/guides/stores.md", "charts/chrek/README.md"])
def test_the_values_of_the_pages_render(helm, tmp_path, path):
    """Those without a type are an addition to the block before."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
    files, seen = [], []
    for number, text in enumerate(blocks):
        printed = yaml.safe_load(text)
        values = printed.get("dynamo-operator", printed)
        if "storage" not in values.get("checkpoint", {}):
            continue
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        files = [file] if "type" in values["checkpoint"]["storage"] else [*files, file]
        agent, _, _ = load(helm.template(*(f"--values={file}" for file in files)), tmp_path)
        seen.append((agent.storage.type, bool(agent.storage.encryption.keyPath)))
    assert {("s3", False), ("oci", False)} < set(seen)


@pytest.mark.parametrize("storage", [S3, OCI], ids=["s3", "oci"])
def test_a_store_on_a_server(helm, tmp_path, storage):
    """The agent knows all of it, the operator only its name; there is no volume anywhere."""
    documents = helm.template(values(storage))
    agent, operator, _ = load(documents, tmp_path)
    kind = storage["type"]
    wanted = {**storage[kind], "credentialsPath": "/etc/chrek/store-credentials"}
    wanted["caBundlePath"] = "/etc/chrek/store-ca/ca.crt"
    for name in ("credentialsSecretRef", "caBundle"):
        del wanted[name]
    found = getattr(agent.storage, kind)
    assert {name: getattr(found, name) for name in wanted} == wanted
    assert agent.storage.encryption.keyPath == "/etc/chrek/encryption"
    cache = storage.get("cache", {"hostPath": "/var/lib/chrek/cache"})
    size = 3 << 20 if "size" in cache else 100 << 30
    assert agent.storage.cache == config.Cache(path=cache["hostPath"], sizeBytes=size)
    uris = {"s3": config.S3, "oci": config.Oci}[kind](uri=storage[kind]["uri"])
    assert operator.storage == config.Storage(type=kind, **{kind: uris})
    assert rendered.of_kind(documents, "PersistentVolumeClaim") == []
    assert "persistentVolumeClaim" not in yaml.safe_dump(documents)


@pytest.mark.parametrize("storage", [S3, OCI], ids=["s3", "oci"])
def test_only_agents_and_deletions_can_open_a_server(helm, tmp_path, storage):
    documents = helm.template(values(storage))
    _, _, deletion = load(documents, tmp_path)
    makers = {"chrek-agent": documents, "deletion": [{**deletion, "metadata": {}}]}
    opened = {}
    for found in makers.values():
        for owner, template in rendered.pod_templates(found):
            names = {volume["name"] for volume in template["spec"].get("volumes", [])}
            opened[owner["metadata"].get("name", "deletion")] = names & OPENS
    assert opened.pop("chrek-agent") == OPENS
    assert opened.pop("deletion") == OPENS
    assert len(opened) == 7, "the operator, five hooks and the test"
    assert set().union(*opened.values()) == set()
    for container in (
        *deletion["spec"]["template"]["spec"]["containers"],
        *rendered.of_kind(documents, "DaemonSet")[0]["spec"]["template"]["spec"]["containers"],
    ):
        mounts = [m for m in container["volumeMounts"] if m["name"] in OPENS]
        assert len(mounts) == 3
        assert all(mount["readOnly"] for mount in mounts)


def test_secrets_are_read_by_name_and_by_the_hook_before_alone(helm):
    """Nobody else may read those of the store: not the operator, and no hook afterwards."""
    documents = helm.template(values(S3))
    readers = {
        rendered.name(role): rule
        for role in rendered.of_kind(documents, "Role", "ClusterRole")
        for rule in role["rules"]
        if "secrets" in rule["resources"]
        and not {"creds", "secret-key"}.isdisjoint(rule.get("resourceNames", ["creds"]))
    }
    assert {name: (rule["resourceNames"], rule["verbs"]) for name, rule in readers.items()} == {
        "chrek-hooks-before": (["creds", "secret-key"], ["get"])
    }


def test_what_hooks_know_of_a_server_is_what_its_addresses_are_made_of(helm, tmp_path):
    found = rendered.maps_with(helm.template(values(S3)), "release.yaml")[0]
    (tmp_path / "release.yaml").write_text(found["data"]["release.yaml"])
    assert settings.load(tmp_path / "release.yaml").store == settings.Server(
        type="s3",
        uri="s3://bucket/prefix/",
        endpoint="https://minio:9000",
        plainHttp=False,
        credentialsSecret="creds",
        caConfigMap="authorities",
        keySecret="secret-key",
    )


@pytest.mark.parametrize(
    ("size", "number"),
    [
        ("1", 1),
        ("107374182400", 100 << 30),
        ("999999999999999999", 999999999999999999),
        ("7Ki", 7 << 10),
        ("7Mi", 7 << 20),
        ("7Gi", 7 << 30),
        ("999999Ti", 999999 << 40),
    ],
)
def test_the_size_of_the_cache_in_bytes(helm, tmp_path, size, number):
    storage = {"type": "s3", "s3": {"uri": "s3://bucket"}, "cache": {"size": size}}
    agent, _, _ = load(helm.template(values(storage)), tmp_path)
    assert agent.storage.cache.sizeBytes == number


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ({"type": "s3"}, ".s3.uri: it is empty, and storage.type is s3. Write s3://bucket/prefix"),
        (
            {"type": "s3", "s3": {"uri": "s3://my.bucket"}},
            'and "my.bucket" has a dot or a port, so it is a host. Correct it, or set '
            'storage.s3.endpoint if "my.bucket" is the bucket.',
        ),
        (
            {"type": "s3", "s3": {"uri": "s3://b"}},
            '.s3.uri: "s3://b" is not s3://bucket/prefix. Write a bucket of 3 to 63 small letters',
        ),
        (
            {"type": "s3", "s3": {**S3["s3"], "plainHttp": True}},
            '.s3.plainHttp: it is true, and storage.s3.endpoint is "https://minio:9000". '
            "Leave plainHttp out",
        ),
        (
            {"type": "s3", "s3": {"uri": "s3://bucket", "endpoint": "http://minio"}},
            '.s3.endpoint: "http://minio" has no TLS, and storage.s3.plainHttp is false. Write',
        ),
        (
            {"type": "s3", "s3": {"uri": "s3://bucket", "plainHttp": True}},
            ".s3.plainHttp: it is true, and neither storage.s3.endpoint nor a host",
        ),
        (
            {"type": "s3", "s3": {"uri": "s3://user:word@minio:9000/bucket"}},
            ".s3.uri: it holds credentials. Put them into the Secret of s3.credentialsSecretRef.",
        ),
        (
            {"type": "oci", "oci": {"uri": "oci://user@registry/a"}},
            ".oci.uri: it holds credentials. Put them into the Secret of oci.credentialsSecretRef.",
        ),
        ({"type": "oci"}, ".oci.uri: it is empty, and storage.type is oci. Write oci://"),
        (
            {"type": "oci", "oci": {"uri": "oci://registry"}},
            '.oci.uri: "oci://registry" is not oci://registry[:port]/repository. Write',
        ),
        (
            {"encryption": {"keySecretRef": "k"}},
            ".encryption.keySecretRef: it is set, and storage.type is pvc; what lies on a volume",
        ),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
def test_values_that_contradict_each_other_are_refused(helm, storage, said):
    refusal = " ".join(helm.refusal(values(storage)).split())
    assert PATH in refusal
    assert said in refusal
    assert ":word" not in refusal


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("s3://bucket", {}),
        ("s3://bucket/", {}),
        ("s3://bucket//p", {}),
        ("s3://bucket/a/b.c_d-e/", {}),
        ("s3://bucket/a/./b", {}),
        ("s3://bucket/..", {}),
        ("s3://bucket/...", {}),
        ("s3://bucket/a?b", {}),
        ("s3://bucket/a%20b", {}),
        ("s3://bu", {}),
        ("s3://-bucket", {}),
        ("s3://BUCKET", {}),
        ("s3://my.bucket", {}),
        ("s3://my.bucket/pre", {}),
        ("s3://my.bucket/p", {"endpoint": "https://minio"}),
        ("s3://minio:9000/bucket", {}),
        ("s3://minio:9000", {}),
        ("s3://minio:9000/bucket", {"endpoint": "https://minio:9000"}),
        ("s3://minio.example.com/my.bucket/p", {"plainHttp": True}),
        ("s3://[fd00::1]:9000/bucket", {}),
        ("s3://user:secret@minio/bucket", {}),
        ("oci://r/p", {}),
        ("oci://r.example.com:5000/a/b-c/d__e.f", {}),
        ("oci://r.example.com/A", {}),
        ("oci://r.example.com/a:tag", {}),
        ("oci://r.example.com/a@sha256:0", {}),
        ("oci://r.example.com//a", {}),
        ("oci://r.example.com/a/", {}),
        ("oci://r.example.com/a..b", {}),
        ("oci://r.example.com/", {}),
    ],
)
def test_the_chart_takes_the_uris_that_the_agent_takes(helm, text, more):
    kind = text.partition(":")[0]
    storage = {"type": kind, kind: {"uri": text, **more}}
    done = helm.run("template", "chrek", ROOT / "charts" / "chrek", values(storage))
    try:
        if kind == "s3":
            uri.bucket_place(config.S3(uri=text, **more))
        else:
            uri.repository_place(text)
        said = ""
    except errors.ConfigError as err:
        said = str(err)
    assert (done.returncode != 0) == bool(said), done.stderr or said
