"""`chrek import --checkpoint` against an API server of dictionaries, and with the operator."""

import copy
import json

import pytest
import yaml
from click import testing

from chrek import cli, errors
from chrek import store as stores
from chrek.operator import status as statuses
from fakes import api_server, captures
from fakes import node as nodes

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

IDENTITY, HASH = captures.IDENTITY, captures.HASH
VARIANT = captures.name_of()
CHECKPOINTS = "/apis/nvidia.com/v1alpha1/namespaces/team/dynamocheckpoints"
OLD = {"name": VARIANT, "uuid": "0-0", "digest": "sha256:0", "image": "llama:1", "bytes": 5}


@pytest.fixture
def api():
    """The fake, which has no subresources, with a status that is written through its own path."""
    with api_server.ApiServer() as server:

        def on_patch(path, _):
            if path.endswith("/status"):
                server.objects[path] = server.objects[path.removesuffix("/status")]

        server.on_patch = on_patch
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    """Runs `chrek import ...` as a user of namespace team, with an artifact and its identity."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "identity.yaml").write_text(yaml.safe_dump(IDENTITY))
    source = stores.Store(tmp_path / "a")
    where = {"identity_hash": HASH, "variant": VARIANT}
    nodes.make(source, {"files.data": b"x" * 1000}, **where)

    def invoke(*arguments):
        return testing.CliRunner().invoke(cli.main, [*arguments])

    assert invoke("export", "./a", HASH, "x.tar").exit_code == 0

    def call(*arguments, identity="identity.yaml"):
        return invoke("import", "x.tar", "./b", "--identity", identity, *arguments)

    ((_, _, call.uuid),) = source.artifacts()
    call.digest = source.stored_digest(HASH, VARIANT, call.uuid)
    call.there = lambda: stores.Store(tmp_path / "b").artifacts() == source.artifacts()
    return call


def written(api, name):
    """The object as it is after its status was written."""
    return api.objects[f"{CHECKPOINTS}/{name}/status"]


def add(api, name, spec=None, created="2026-01-01T00:00:00Z", **status):
    spec = spec or {"identity": IDENTITY, "captureSource": "worker"}
    metadata = {"resourceVersion": "1", "creationTimestamp": created, "namespace": "team"}
    return api.add(CHECKPOINTS, {"spec": spec, "status": status}, name=name, **metadata)


def test_a_checkpoint_is_made(api, run):
    result = run("--checkpoint=llama")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{HASH}/{VARIANT}/{run.uuid} {run.digest} 1000",
        "DynamoCheckpoint llama created",
        "DynamoCheckpoint llama has the artifact; the operator makes it Ready",
    ]
    made = written(api, "llama")
    assert made["spec"] == {"identity": IDENTITY, "captureSource": "worker"}
    (variant,) = made["status"]["variants"]
    assert variant.pop("createdAt").endswith("Z")
    assert variant == {
        "name": VARIANT,
        "uuid": run.uuid,
        "digest": run.digest,
        "image": "",
        "bytes": 1000,
        "steps": {},
    }
    *_, (_, _, _, patch) = api.requests
    assert patch["metadata"]["resourceVersion"], "a write of somebody else is not overwritten"
    assert run.there()


def test_the_operator_takes_it_as_ready(api, run):
    """Whichever of the two writes first."""
    assert run("--checkpoint=c").exit_code == 0
    for looked_before in (False, True):
        item = captures.checkpoint(spec={"captureSource": "worker"})
        cluster = captures.Cluster(item)
        if looked_before:
            assert cluster.settle()["phase"] == "Pending"
        old = cluster.item.get("status") or {}
        merged = {**old, **copy.deepcopy(written(api, "c")["status"])}
        cluster.item = {**cluster.item, "status": merged}
        cluster.version += 1
        found = cluster.settle()
        assert found["phase"] == "Ready"
        assert [one["uuid"] for one in found["variants"]] == [run.uuid]
        cluster.workers = [captures.worker("w")]
        assert cluster.settle()["phase"] == "Ready", "and captures no pod of the same variant"
        assert not cluster.created


def test_again_changes_nothing(api, run):
    add(api, "llama", variants=[{**OLD, "uuid": run.uuid, "digest": run.digest}])
    result = run("--checkpoint=llama")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("DynamoCheckpoint llama has the artifact already\n")
    assert all(method == "GET" for method, *_ in api.requests)


def test_what_it_replaces_is_deleted_by_the_operator(api, run):
    other = {**OLD, "name": "bbbb", "uuid": "1-1"}
    add(api, "llama", variants=[OLD, other], garbage=["cccc/2-2"], phase="Ready")
    result = run("--checkpoint=team/llama", "--namespace=of-the-store")
    assert result.exit_code == 0, result.output
    found = written(api, "llama")["status"]
    assert [one["uuid"] for one in found["variants"]] == [run.uuid, "1-1"]
    assert found["garbage"] == sorted(["cccc/2-2", f"{VARIANT}/0-0"])
    assert found["phase"] == "Ready"


def test_the_namespace_of_the_store_is_that_of_the_checkpoint(api, run):
    assert run("--checkpoint=llama", "--namespace=other").exit_code == 0
    assert f"{CHECKPOINTS.replace('/team/', '/other/')}/llama" in api.objects


def test_an_identity_as_a_checkpoint_has_it(run, tmp_path):
    whole = {"kind": "DynamoCheckpoint", "spec": {"identity": IDENTITY}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(whole))
    assert run("--checkpoint=llama", identity="c.yaml").exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read: "),
        ("model: m", "backendFramework: required"),
        ("- 1", "expected an object"),
        ("kind: DynamoCheckpoint", "expected an object"),
        (None, "cannot be read: No such file"),
    ],
)
def test_no_identity(run, api, tmp_path, text, message):
    if text is not None:
        (tmp_path / "c.yaml").write_text(text)
    result = run("--checkpoint=llama", identity="c.yaml")
    assert result.exit_code == errors.InputError.exit_code
    assert message in result.stderr
    assert not api.requests
    assert not list((tmp_path / "b").iterdir())


def test_another_identity_than_the_artifacts(run, api, tmp_path):
    (tmp_path / "c.yaml").write_text("model: other\nbackendFramework: vllm\n")
    result = run("--checkpoint=llama", identity="c.yaml")
    assert result.exit_code == errors.ArtifactError.exit_code
    assert f"it is of identity hash {HASH}" in result.stderr
    assert {method for method, *_ in api.requests} == {"GET"}
    assert not list((tmp_path / "b").iterdir())


def test_both_options_or_neither(run):
    assert run().exit_code == 2
    assert "Give --checkpoint and --identity, or neither." in run().stderr


def test_a_checkpoint_of_another_identity(run, api):
    add(api, "llama", {"identity": {**IDENTITY, "model": "other"}})
    result = run("--checkpoint=llama")
    assert result.exit_code == errors.InputError.exit_code
    assert "llama is of another identity than the artifact" in result.stderr
    assert run.there(), "the artifact stays"


def test_a_checkpoint_that_shares_the_artifacts_of_another(run, api):
    add(api, "first", created="2025-01-01T00:00:00Z")
    add(api, "llama")
    result = run("--checkpoint=llama")
    assert result.exit_code == errors.InputError.exit_code
    assert "are those of DynamoCheckpoint first, which is older than llama" in result.stderr
    assert "say --checkpoint team/first" in result.stderr
    assert not run.there(), "nothing is moved before"
    assert run("--checkpoint=first").exit_code == 0


def test_none_is_made_beside_the_owner_of_its_artifacts(run, api):
    add(api, "first")
    result = run("--checkpoint=llama")
    assert result.exit_code == errors.InputError.exit_code
    assert "say --checkpoint team/first" in result.stderr
    assert f"{CHECKPOINTS}/llama" not in api.objects
    assert not run.there()


def test_a_checkpoint_that_is_full(run, api):
    many = [{**OLD, "name": f"b{n}", "uuid": f"{n}"} for n in range(statuses.MAX_VARIANTS)]
    add(api, "llama", variants=many)
    result = run("--checkpoint=llama")
    assert result.exit_code == errors.InputError.exit_code
    assert "llama has 4 variants already" in result.stderr


def test_the_operator_writes_meanwhile(run, api):
    add(api, "llama", phase="Pending")
    before, seen = api.on_patch, []

    def faster(path, body):
        if not seen:
            api.objects[f"{CHECKPOINTS}/llama"]["metadata"]["resourceVersion"] = "77"
            api.objects[f"{CHECKPOINTS}/llama"]["status"]["variants"] = [{**OLD, "name": "bbbb"}]
        seen.append(path)
        before(path, body)

    api.on_patch = faster
    result = run("--checkpoint=llama")
    assert result.exit_code == 0, result.output
    assert len(seen) == 2
    assert [v["name"] for v in written(api, "llama")["status"]["variants"]] == [VARIANT, "bbbb"]


def test_a_crd_that_keeps_no_variants(run, api):
    add(api, "llama")
    before = api.on_patch

    def drops(path, body):
        before(path, body)
        body["status"].clear()

    api.on_patch = drops
    result = run("--checkpoint=llama")
    assert result.exit_code == errors.UnsupportedError.exit_code
    assert "the CRD of another chart keeps no variants" in result.stderr


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", CHECKPOINTS, 404, "chrek's CRDs are not installed in this cluster"),
        ("POST", CHECKPOINTS, 403, "you may not create dynamocheckpoints.nvidia.com"),
        ("GET", f"{CHECKPOINTS}/llama", 403, "you may not get dynamocheckpoints.nvidia.com"),
        ("GET", CHECKPOINTS, 403, "you may not list dynamocheckpoints.nvidia.com"),
        ("GET", f"{CHECKPOINTS}/llama", 401, "log in again"),
        (
            *("PATCH", f"{CHECKPOINTS}/llama/status", 403),
            "kubectl auth can-i patch dynamocheckpoints.nvidia.com --subresource=status -n team",
        ),
        ("GET", CHECKPOINTS, 500, "no such (500)"),
    ],
)
def test_an_api_server_that_refuses(run, api, method, path, status, message):
    api.refuse(method, path, status=status, message="no such")
    result = run("--checkpoint=llama")
    assert result.exit_code == errors.ApiError.exit_code
    assert message in result.stderr
    # Who owns artifacts is asked before anything is moved. Later the artifact stays, and the next
    # try is quick.
    assert run.there() == ((method, path) != ("GET", CHECKPOINTS))


def test_another_context(run, api, tmp_path, monkeypatch):
    """Its cluster, and its namespace."""
    monkeypatch.setenv("KUBECONFIG", str(two_contexts(api, tmp_path)))
    result = run("--checkpoint=llama", "--context=theirs")
    assert result.exit_code == 0, result.output
    assert f"{CHECKPOINTS.replace('/team/', '/of-theirs/')}/llama" in api.objects


def two_contexts(api, folder):
    """A kubeconfig whose context in use leads nowhere, and that has one that does not."""
    path = api.kubeconfig(folder, "of-theirs")
    known = yaml.safe_load(path.read_text())
    (one,) = known["contexts"]
    known["contexts"] = [
        {"name": "theirs", "context": one["context"]},
        {"name": "own", "context": {**one["context"], "cluster": "nowhere"}},
    ]
    server = {"name": "nowhere", "cluster": {"server": "http://127.0.0.1:1"}}
    known["clusters"].append(server)
    known["current-context"] = "own"
    path.write_text(yaml.safe_dump(known))
    return path


@pytest.mark.parametrize("problem", ["context", "kubeconfig"])
def test_a_cluster_that_is_not_known_is_told_of_before_anything_is_done(
    run, tmp_path, monkeypatch, problem
):
    words = ["--checkpoint=llama"]
    if problem == "context":
        words.append("--context=absent")
    else:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    result = run(*words)
    assert result.exit_code == errors.ConfigError.exit_code
    assert "cannot tell how to reach a cluster" in result.stderr
    assert not list((tmp_path / "b").iterdir())


def test_an_api_server_that_does_not_answer(run, api, tmp_path, monkeypatch):
    path = two_contexts(api, tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(path))
    result = run("--checkpoint=llama")
    assert result.exit_code == errors.ApiError.exit_code
    assert "KUBECONFIG and --context say which cluster is asked" in result.stderr
    assert not list((tmp_path / "b").iterdir())


def test_a_context_is_for_a_checkpoint(run, tmp_path):
    result = testing.CliRunner().invoke(cli.main, ["import", "x.tar", "./b", "--context=x"])
    assert result.exit_code == 2
    assert "--context is for --checkpoint" in result.stderr


def test_data_has_stdout_for_itself(run):
    result = run("--checkpoint=llama", "-o", "json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["artifacts"][0]["uuid"] == run.uuid
    assert "DynamoCheckpoint llama created\n" in result.stderr
