"""`chrek prune --dry-run` against an API server of dictionaries: what it tells, and that is all."""

import datetime
import json
import re

import jsonschema
import pytest
import yaml
from click import testing

from chrek import cli, errors, identity
from chrek.cli import records
from chrek.operator import conditions
from fakes import api_server
from fakes import captures as fakes

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

HASH = fakes.HASH
GB = 1 << 30
LLAMA, OTHER = fakes.name_of("llama:1"), fakes.name_of("llama:2")
OFF = "housekeeping is off: neither maxBytes nor unusedFor is set"


def collection(kind, namespace="team"):
    groups = {"pods": "api/v1", "configmaps": "api/v1"}
    return f"/{groups.get(kind, 'apis/nvidia.com/v1alpha1')}/namespaces/{namespace}/{kind}"


def ago(days):
    return conditions.timestamp(datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days))


def one(uuid, image="llama:1", *, days=10, size=10, **fields):
    found = {"name": fakes.name_of(image), "uuid": uuid, "bytes": size * GB, "image": image}
    return {**found, "createdAt": ago(days), **fields}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    """Runs `chrek prune --dry-run ...` as a user of namespace team."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))

    def call(*arguments):
        return testing.CliRunner().invoke(cli.main, ["prune", "--dry-run", *arguments])

    yield call
    assert {method for method, *_ in api.requests} <= {"GET"}, "it only reads"


def release(api, name="chrek-config", *, namespace="team", watch=("team",), **fields):
    text = {
        "kind": "OperatorConfig",
        "watchNamespaces": list(watch),
        "deletionJobPath": "/etc/chrek/deletion-job.yaml",
        "ofAnotherVersion": True,
        **fields,
    }
    labels = {"app.kubernetes.io/part-of": "chrek", "app.kubernetes.io/component": "config"}
    body = {"data": {"operator.yaml": yaml.safe_dump(text)}}
    api.add(collection("configmaps", namespace), body, name=name, labels=labels)


def checkpoint(api, *variants, name=HASH, namespace="team", model="", auto=True, **fields):
    known = identity.parse({**fakes.IDENTITY, **({"model": model} if model else {})})
    body = fakes.checkpoint(name, auto=auto, namespace=namespace, **fields)
    if model:
        body["spec"] = {**body["spec"], "identity": {**fakes.IDENTITY, "model": model}}
    body["status"] = {"identityHash": known.hash(), "variants": list(variants)}
    api.add(collection("dynamocheckpoints", namespace), body)
    return known.hash()


def graph(api, section, name="g", **pod):
    service = {"checkpoint": {"enabled": True, **section}, "extraPodSpec": pod}
    api.add(collection("dynamographdeployments"), {"spec": {"services": {"w": service}}}, name=name)


def rows(result):
    """The table's rows, split at wide gaps."""
    lines = result.stdout.splitlines()
    end = next(n for n, line in enumerate(lines) if re.match(r"\d+ artifacts?, ", line))
    table = [[cell for cell in line.split("  ") if cell] for line in lines[:end]]
    assert not table or table[0][0] == "NAMESPACE"
    return [[cell.strip() for cell in row] for row in table[1:]], lines[end:]


def test_what_is_unused_for_too_long(api, run):
    release(api, housekeeping={"unusedSeconds": 86400 * 30})
    checkpoint(api, one("a", days=40, lastRestoredAt=ago(31)), one("b", "llama:2"))
    result = run()
    assert result.exit_code == 0, result.output
    table, rest = rows(result)
    assert [row[:4] for row in table] == [["team", HASH, f"{HASH}/{LLAMA}", "10.0Gi"]]
    assert table[0][5].startswith("not used since ")
    assert "storage.housekeeping.unusedFor" in table[0][5]
    assert rest == ["1 artifact, 10.0Gi, would go; 10.0Gi stay"]


def test_what_is_over_the_quota(api, run):
    release(api, housekeeping={"maxBytes": 15 * GB})
    checkpoint(api, one("a", days=3))
    checkpoint(api, one("b", days=2), name="mine", model="m", auto=False)
    checkpoint(api, one("c", days=1), name="younger", model="n")
    table, rest = rows(run())
    assert [row[1] for row in table] == [HASH, "younger"]
    assert "least recently used" in table[0][5]
    assert rest == [
        "2 artifacts, 20.0Gi, would go; 10.0Gi of 15.0Gi stay",
        "  1, 10.0Gi, stay: a DynamoCheckpoint that chrek did not make stays Ready",
    ]


def test_a_quota_that_cannot_be_met(api, run):
    release(api, housekeeping={"maxBytes": 7 * GB})
    checkpoint(api, one("a"), auto=False)
    table, rest = rows(run())
    assert table == []
    assert rest[-1] == "the quota is passed by 3.0Gi, and nothing more may go"


def test_the_whole_release_counts_and_one_namespace_is_shown(api, run):
    release(api, watch=["team", "other"], housekeeping={"maxBytes": 5 * GB})
    checkpoint(api, one("a", days=3))
    checkpoint(api, one("b", days=2), namespace="other")
    assert [row[0] for row in rows(run())[0]] == ["team", "other"]
    result = run("--namespace", "other", "--release-namespace", "team")
    assert [row[0] for row in rows(result)[0]] == ["other"]
    assert "2 artifacts, 20.0Gi, would go" in result.stdout


def test_options_take_the_place_of_the_settings(api, run):
    release(api, housekeeping={"maxBytes": 5 * GB, "unusedSeconds": 60})
    checkpoint(api, one("a"))
    _, rest = rows(run("--max-bytes", "10Gi", "--unused-for", "20d"))
    assert rest == ["0 artifacts, 0, would go; 10.0Gi of 10.0Gi stay"]
    _, rest = rows(run("--max-bytes", "0", "--unused-for", "0"))
    assert rest == ["0 artifacts, 0, would go; 10.0Gi stay", OFF]
    for time in ("240h", "9d", "100m", "1s"):
        assert len(rows(run("--max-bytes", "0", "--unused-for", time))[0]) == 1


def test_options_do_without_a_release(api, run):
    checkpoint(api, one("a"))
    assert [row[0] for row in rows(run("--max-bytes", "5Gi"))[0]] == ["team"]


def test_a_file_takes_the_place_of_the_cluster_s(api, run, tmp_path):
    checkpoint(api, one("a"))
    path = tmp_path / "operator.yaml"
    text = {"watchNamespaces": ["team"], "housekeeping": {"unusedSeconds": 60}}
    path.write_text(yaml.safe_dump(text))
    assert len(rows(run("--config", str(path)))[0]) == 1
    path.write_text(yaml.safe_dump({**text, "kind": "OperatorConfig"}))
    table, rest = rows(run("--config", str(path)))
    assert table == []
    assert rest[1] == "  1, 10.0Gi, stay: this release deletes no artifacts"
    agent = {"kind": "AgentConfig", "watchNamespaces": ["team"], "release": "r"}
    path.write_text(yaml.safe_dump(agent))
    assert rows(run("--config", str(path)))[1][-1] == OFF


@pytest.mark.parametrize(
    ("variant_there", "kept"), [("llama:1", ["a"]), ("llama:2", ["b"]), ("llama:3", ["b"])]
)
def test_what_pods_run_stays(api, run, variant_there, kept):
    checkpoint(api, one("b", "llama:2", days=5), one("a"), auto=True)
    pod = fakes.pod_object("w", source=False, image=variant_there)
    pod["metadata"]["namespace"] = "team"
    api.add(collection("pods"), pod)
    table, _ = rows(run("--unused-for", "1d"))
    names = {"a": LLAMA, "b": OTHER}
    assert [row[2].partition("/")[2] for row in table] == [
        names[uuid] for uuid in ("a", "b") if uuid not in kept
    ]


MAIN = {"image": "llama:2", "command": fakes.COMMAND}


@pytest.mark.parametrize(
    ("section", "pod", "gone"),
    [
        ({"identity": fakes.IDENTITY}, {"mainContainer": MAIN}, []),
        ({"identity": fakes.IDENTITY}, {"mainContainer": {"image": "llama:1"}}, [OTHER]),
        ({"identity": fakes.IDENTITY}, {"mainContainer": {"image": "unknown"}}, []),
        ({"identity": fakes.IDENTITY}, {}, [OTHER]),
        ({"checkpointRef": HASH}, {"mainContainer": MAIN}, [OTHER]),
        ({"checkpointRef": "another"}, {"mainContainer": MAIN}, [OTHER, LLAMA]),
        ({"identity": {**fakes.IDENTITY, "model": "m"}}, {"mainContainer": MAIN}, [OTHER, LLAMA]),
        ({"identity": {}}, {"mainContainer": MAIN}, [OTHER, LLAMA]),
        ({"enabled": False, "checkpointRef": HASH}, {"mainContainer": MAIN}, [OTHER, LLAMA]),
    ],
)
def test_what_graphs_name_stays(api, run, section, pod, gone):
    """That of the template at least; without a command only what the template tells is known."""
    checkpoint(api, one("b", "llama:2", days=20), one("a"))
    graph(api, section, **pod)
    table, rest = rows(run("--unused-for", "1d"))
    assert [row[2].partition("/")[2] for row in table] == gone
    if pod == {"mainContainer": {"image": "unknown"}}:
        assert "what uses it is not known" in rest[1]


def test_a_checkpoint_is_named_by_its_name_too(api, run):
    checkpoint(api, one("a"), name="c")
    checkpoint(api, one("b"), name="d", model="m")
    graph(api, {"checkpointRef": "c"}, mainContainer=MAIN)
    pod = fakes.pod_object("w", source=False, annotations={"nvidia.com/chrek-checkpoint": "c"})
    pod["metadata"]["namespace"] = "team"
    api.add(collection("pods"), pod)
    assert [row[1] for row in rows(run("--unused-for", "1d"))[0]] == ["d"]
    api.objects.pop(f"{collection('pods')}/pod-w")
    assert [row[1] for row in rows(run("--unused-for", "1d"))[0]] == ["d"]


def test_what_runs_needs_room(api, run):
    checkpoint(api, one("a"))
    checkpoint(api, one("b", days=20), name="d", model="m")
    item = api.objects[f"{collection('dynamocheckpoints')}/{HASH}"]
    item["status"]["captures"] = [{"variant": OTHER, "phase": "Creating"}]
    assert [row[1] for row in rows(run("--max-bytes", "25Gi"))[0]] == ["d"]


def test_services_of_the_platform_s_graphs_are_passed_over(api, run):
    checkpoint(api, one("a"))
    api.add(collection("dynamographdeployments"), {"spec": {"services": {"w": "x"}}}, name="g")
    assert len(rows(run("--unused-for", "1d"))[0]) == 1


def test_a_checkpoint_that_cannot_be_read_hides_no_other(api, run):
    checkpoint(api, one("a"))
    api.add(collection("dynamocheckpoints"), {"spec": {"identity": {"model": 1}}}, name="bad")
    assert len(rows(run("--unused-for", "1d"))[0]) == 1


def test_a_status_in_the_annotation_counts(api, run):
    hashed = checkpoint(api)
    item = api.objects[f"{collection('dynamocheckpoints')}/{HASH}"]
    item.pop("status")
    state = {"identityHash": hashed, "variants": [{**one("a"), "digest": "d"}]}
    item["metadata"]["annotations"] = {"nvidia.com/chrek-state": json.dumps(state)}
    assert len(rows(run("--unused-for", "1d"))[0]) == 1


def test_data(api, run):
    release(api, watch=["team", "other"], housekeeping={"maxBytes": 15 * GB})
    checkpoint(api, one("a", days=3))
    checkpoint(api, one("b", days=2), namespace="other")
    checkpoint(api, one("c", days=2), name="mine", model="m", auto=False)
    arguments = ["--namespace", "team", "-o"]
    result = run(*arguments, "json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    jsonschema.validate(document, records.schema("prune"))
    (removal,) = document.pop("removals")
    assert removal["path"] == f"{HASH}/{LLAMA}/a"
    assert "least recently used" in removal["why"]
    assert document == {
        "artifacts": 2,
        "bytes": 20 * GB,
        "leftBytes": 10 * GB,
        "maxBytes": 15 * GB,
        "unusedSeconds": 0,
        "overBytes": 0,
        "kept": [
            {
                "artifacts": 1,
                "bytes": 10 * GB,
                "why": "a DynamoCheckpoint that chrek did not make stays Ready",
            }
        ],
    }
    assert yaml.safe_load(run(*arguments, "yaml").stdout)["removals"] == [removal]
    assert run(*arguments, "name").stdout == f"{HASH}/{LLAMA}/a\n"


# What a deletion would remove.


def test_data_of_a_deletion(api, run):
    checkpoint(api, one("a"))
    document = json.loads(run(HASH, "-ojson").stdout)
    jsonschema.validate(document, records.schema("prune"))
    assert document["leftBytes"] is None
    assert [one["bytes"] for one in document["removals"]] == [10 * GB]
    assert run("0" * 16, "-oname").stdout == ""


def test_what_a_deletion_of_a_hash_would_remove(api, run):
    checkpoint(api, one("a"), one("b", "llama:2"))
    other = checkpoint(api, one("c", size=1), name="c", model="m", auto=False)
    table, rest = rows(run(HASH))
    assert [row[2] for row in table] == [f"{HASH}/{LLAMA}", f"{HASH}/{OTHER}"]
    assert {row[5] for row in table} == {f"deletion of {HASH}"}
    assert rest[0].startswith("2 artifacts, 20.0Gi, would be deleted, and what is there")
    table, _ = rows(run(f"{HASH}/{OTHER}", f"{other}/{LLAMA}/c", f"{HASH}/{LLAMA}/x"))
    assert [row[5] for row in table] == [
        f"deletion of {HASH}/{OTHER}",
        f"deletion of {other}/{LLAMA}/c; note: a DynamoCheckpoint that chrek did not make stays"
        " Ready",
    ]


def test_what_is_not_there_is_no_error(api, run):
    checkpoint(api, one("a"), namespace="other")
    result = run("0" * 16)
    assert result.exit_code == 0
    assert rows(result)[0] == []
    assert rows(run("--namespace", "other", HASH))[0]


# What goes wrong.


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["--max-bytes", "lots"], errors.InputError, "'lots' is no quantity"),
        (["--max-bytes", "-1"], errors.InputError, "--max-bytes -1: below 0"),
        (["--unused-for", "30"], errors.InputError, "--unused-for 30: no duration"),
        (["--unused-for", "P30D"], errors.InputError, "write it like 30d"),
        ([], errors.InputError, "namespace team has no release of chrek"),
        (["--namespace", "x"], errors.InputError, "namespace x has no release of chrek"),
        (["a//b"], errors.InputError, "'a//b' is not a path in the store"),
        (["--config", "/nonexistent"], errors.ConfigError, "/nonexistent: "),
    ],
)
def test_what_is_wrong_is_named(api, run, arguments, kind, said):
    result = run(*arguments)
    assert result.exit_code == kind.exit_code
    assert said in result.stderr
    assert "\n  hint: " in result.stderr
    assert result.stdout == ""


def test_several_releases_in_a_namespace(api, run):
    release(api)
    release(api, "blue-config")
    result = run()
    assert result.exit_code == errors.InputError.exit_code
    assert "several releases: blue-config, chrek-config" in result.stderr
    assert "--config" in result.stderr


@pytest.mark.parametrize("text", ["a: [", "watchNamespaces: team", "- a"])
def test_a_configuration_that_cannot_be_read(api, run, text):
    release(api)
    api.objects[f"{collection('configmaps')}/chrek-config"]["data"]["operator.yaml"] = text
    result = run()
    assert result.exit_code == errors.ConfigError.exit_code
    assert "ConfigMap team/chrek-config: operator.yaml: " in result.stderr


def test_a_cluster_without_our_kinds(api, run):
    where = collection("dynamocheckpoints")
    api.refuse("GET", where, status=404, message="the server could not find it")
    result = run("--max-bytes", "1Gi")
    assert result.exit_code == errors.ApiError.exit_code
    assert "chrek's CRDs are not installed in this cluster" in result.stderr


@pytest.mark.parametrize("kind", ["configmaps", "dynamocheckpoints", "pods"])
def test_a_user_who_may_not_read_it(api, run, kind):
    release(api, housekeeping={"unusedSeconds": 60})
    checkpoint(api, one("a"))
    api.refuse("GET", collection(kind), status=403, message=f"{kind} is forbidden")
    result = run()
    assert result.exit_code == errors.ApiError.exit_code
    assert f"you may not list {kind}" in result.stderr
    assert "kubectl auth can-i list " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "f", "--namespace", "ns"],
        ["--config", "f", "0"],
        ["--namespace", "ns", "0"],
        ["--config", "f", "--namespace", "ns", "0", "--max-bytes", "1"],
        ["--config", "f", "--namespace", "ns", "0", "--unused-for", "1d"],
        ["--config", "f", "--namespace", "ns", "0", "--release-namespace", "x"],
        ["--config", "f", "--namespace", "ns", "0", "--context", "x"],
        ["--config", "f", "--namespace", "ns", "0", "-o", "json"],
    ],
)
def test_without_a_dry_run_nothing_is_guessed(arguments):
    result = testing.CliRunner().invoke(cli.main, ["prune", *arguments])
    assert result.exit_code == 2
    assert "--dry-run" in result.stderr
