"""What `chrek doctor` finds out, against an API server of dictionaries."""

import time

import pytest

from chrek import errors
from chrek.checks import report
from chrek.cli import diagnosis, reading, releases
from fakes import api_server, installed, release

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

OK, WARNING, FAILED = report.Status.OK, report.Status.WARNING, report.Status.FAILED
RBAC = "rbac.authorization.k8s.io"


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def of_installed(api):
    cluster = release.connect(api)
    (found,) = releases.installed(reading.Reader(cluster, "team"))
    return diagnosis.of_installed(cluster, found)


def of_rendered(api, config=None, **changes):
    found = releases.Release(
        "chrek", "team", config or release.config(), changes.get("pod", installed.POD)
    )
    return diagnosis.of_rendered(release.connect(api), found)


def by_name(rows):
    found = {(row.group, row.outcome.name): row.outcome for row in rows}
    assert len(found) == len(rows), "names are unique in a group"
    return found


def statuses(rows):
    return {f"{row.group}: {row.outcome.name}": row.outcome.status for row in rows}


def test_a_release_that_works(api):
    installed.healthy(api)
    rows = of_installed(api)
    assert set(statuses(rows).values()) == {OK}
    found = by_name(rows)
    assert ("cluster", "kubernetes-version") in found
    assert ("cluster", "storage") in found
    assert ("cluster", "pod-security") in found
    assert ("release", "operator") in found
    assert ("release", "webhook") in found
    assert found["release", "agents"].detail == "2 of 2 nodes have a ready agent"
    for node in ("n1", "n2"):
        assert f"agent ready (chrek-agent-{node})" in found[f"node {node}", "agent"].detail
        assert found[f"node {node}", "store-write"].detail == "written"
        assert found[f"node {node}", "clock"].detail == "0.1 s"
    methods = {(method, query.get("dryRun")) for method, _, query, _ in api.requests}
    assert methods <= {("GET", None), ("POST", "All"), ("PATCH", "All")}, "it changes nothing"


def test_what_is_wrong_with_the_cluster_and_the_release(api):
    installed.healthy(api)
    del api.objects[f"{release.CLASSES}/shared"]
    del api.objects[f"{release.DEPLOYMENTS}/chrek-operator"]
    rows = of_installed(api)
    wrong = {name for name, status in statuses(rows).items() if status is FAILED}
    assert wrong == {"cluster: storage", "release: operator", "release: webhook"}


def test_what_an_agent_says_of_its_node(api):
    installed.healthy(api)
    release.agent(api, "n2", ready=False)
    failed = ("store-write", "fail", "/checkpoints: read-only", "mount it read-write")
    late = ("clock", "warn", "3 s ahead", "run NTP")
    installed.answers(api, "n2", failed, late, ready=False, problems=["read-only"])
    found = by_name(of_installed(api))
    assert found["node n1", "agent"].status is OK
    assert found["node n2", "agent"].status is WARNING
    assert "read-only" in found["node n2", "agent"].detail
    assert found["node n2", "agent"].hint == "mount it read-write"
    assert found["node n2", "clock"] == report.warning("clock", "3 s ahead", "run NTP")
    assert found["release", "agents"].status is FAILED


def test_an_agent_is_asked_at_the_port_of_its_pod(api):
    installed.healthy(api)
    release.agent(api, "n1", ready=True, port=9999)
    del api.texts[installed.answers(api, "n1")]
    installed.answers(api, "n1", ("here", "ok", "port 9999"), port=9999)
    assert by_name(of_installed(api))["node n1", "here"].detail == "port 9999"


def test_an_agent_that_does_not_answer(api):
    installed.healthy(api)
    path = installed.answers(api, "n1")
    api.refuse("GET", path, status=503, message="error trying to reach service: i/o timeout")
    found = by_name(of_installed(api))
    assert found["node n1", "preflight"].status is WARNING
    assert "i/o timeout" in found["node n1", "preflight"].detail
    assert "networkPolicy.metricsFrom" in found["node n1", "preflight"].hint
    assert found["node n2", "clock"].status is OK, "the other one is asked all the same"


def test_a_silent_agent_is_asked_once(api, monkeypatch):
    monkeypatch.setattr(diagnosis, "AGENT_SECONDS", 0.5)
    installed.healthy(api)
    path = installed.answers(api, "n1")
    answered = api.texts

    class Slow(dict):
        def __contains__(self, key):
            if key == path:
                time.sleep(1.5)
            return key in answered

        def __getitem__(self, key):
            return answered[key]

    api.texts = Slow()
    # It will answer to nobody.
    api._server.handle_error = lambda *_: None
    found = by_name(of_installed(api))
    assert "no answer" in found["node n1", "preflight"].detail
    assert [asked for _, asked, _, _ in api.requests].count(path) == 1


def test_many_nodes_share_a_table(api):
    nodes = [f"n{number}" for number in range(1, 8)]
    installed.healthy(api)
    release.running(api, nodes=nodes)
    for node in nodes:
        installed.answers(api, node, ("clock", "warn", "3 s ahead", "run NTP"))
    rows = of_installed(api)
    found = by_name(rows)
    assert found["nodes", "clock"].status is WARNING
    assert "n1, n2, n3 and 4 more: 3 s ahead" in found["nodes", "clock"].detail
    assert found["release", "agents"].status is OK
    tables = dict(diagnosis.tables(rows))
    assert list(tables) == ["cluster", "release", "nodes"]
    assert {outcome.name for outcome in tables["nodes"]} == {*nodes, "clock"}


def test_few_nodes_have_tables_of_their_own(api):
    installed.healthy(api)
    tables = dict(diagnosis.tables(of_installed(api)))
    assert list(tables) == ["cluster", "release", "node n1", "node n2"]
    assert [outcome.name for outcome in tables["node n1"]] == ["agent", "store-write", "clock"]


def test_a_release_without_agents_or_without_an_operator(api):
    installed.healthy(api)
    installed.add(api, release.config(agentName=""), pod=None)
    assert {row.group for row in of_installed(api)} == {"cluster", "release"}
    installed.add(api, release.config(operatorName=""))
    assert {name for group, name in by_name(of_installed(api)) if group == "release"} == {"agents"}


def test_settings_that_cannot_be_read(api):
    installed.add(api, release=None)
    (row,) = of_installed(api)
    assert (row.group, row.outcome.name, row.outcome.status) == ("release", "settings", FAILED)
    problem = report.failed("settings", "a", "b")
    found = diagnosis.of_rendered(
        release.connect(api), releases.Release("chrek", "team", problem=problem)
    )
    assert found == [diagnosis.Row("release", problem)]


SECRETS = f"{release.SECRETS}/creds"
S3 = {"credentialsSecret": "creds", "uri": "s3://127.0.0.1:1/b/p", "plainHttp": True}


@pytest.mark.parametrize(
    ("verb", "path", "resource", "options", "check", "right"),
    [
        ("get", f"{release.CRDS}/{release.CRD}", "customresourcedefinitions",
         {"group": "apiextensions.k8s.io"}, ("cluster", "crds"),
         "get customresourcedefinitions.apiextensions.k8s.io"),
        ("list", release.CLASSES, "storageclasses", {"group": "storage.k8s.io"},
         ("cluster", "storage"), "list storageclasses.storage.k8s.io"),
        ("list", release.NODES, "nodes", {}, ("cluster", "nodes"), "list nodes"),
        ("create", release.PODS, "pods", {"namespace": "team"}, ("cluster", "pod-security"),
         "create pods in namespace team"),
        ("create", release.PODS, "pods", {"namespace": "team"}, ("release", "webhook"),
         "create pods in namespace team"),
        ("get", f"{release.DEPLOYMENTS}/chrek-operator", "deployments",
         {"group": "apps", "namespace": "team"}, ("release", "operator"),
         "get deployments.apps in namespace team"),
        ("get", f"{release.WEBHOOKS}/team-chrek", "mutatingwebhookconfigurations",
         {"group": "admissionregistration.k8s.io"}, ("release", "webhook"),
         "get mutatingwebhookconfigurations.admissionregistration.k8s.io"),
        ("get", f"{release.PODS}/chrek-agent-n1:8089/proxy/preflight", "pods/proxy",
         {"namespace": "team"}, ("node n1", "preflight"), "get pods/proxy in namespace team"),
    ],
)  # fmt: skip
def test_a_missing_right(api, verb, path, resource, options, check, right):
    installed.healthy(api)
    installed.deny(api, verb, path, resource, **options)
    rows = of_installed(api)
    outcome = by_name(rows)[check]
    assert outcome.detail == f"not allowed to look: the right to {right} is missing"
    assert outcome.status is WARNING
    command, _, _ = right.partition(" in namespace")
    in_namespace = " -n team" if "namespace" in options else ""
    command = command.replace("pods/proxy", "pods --subresource=proxy")
    assert outcome.hint.endswith(f"kubectl auth can-i {command}{in_namespace}")
    assert not diagnosis.failures(rows), "the others go on, and it is no failure"
    assert len(rows) >= 14


def test_who_may_not_look_at_nodes_sees_what_agents_say(api):
    installed.healthy(api)
    release.agent(api, "n2", ready=False)
    failed = ("store-write", "fail", "/checkpoints: read-only", "mount it read-write")
    installed.answers(api, "n2", failed, ready=False)
    installed.deny(api, "list", release.NODES, "nodes")
    found = by_name(of_installed(api))
    assert diagnosis.denied(found["cluster", "nodes"])
    assert found["node n1", "agent"].status is OK
    assert found["node n1", "clock"].status is OK
    assert found["node n2", "agent"].status is WARNING
    assert "read-only" in found["node n2", "agent"].detail
    assert found["release", "agents"].status is FAILED
    release.agent(api, "n2", ready=True)
    installed.answers(api, "n2")
    found = by_name(of_installed(api))
    assert found["release", "agents"] == report.ok("agents", "2 of 2 nodes have a ready agent")


def test_who_may_look_at_neither_nodes_nor_pods(api):
    installed.healthy(api)
    installed.deny(api, "list", release.NODES, "nodes")
    installed.deny(api, "list", release.PODS, "pods", namespace="team")
    rows = of_installed(api)
    assert not [row for row in rows if row.group.startswith("node")]
    assert diagnosis.denied(by_name(rows)["release", "agents"])
    assert not diagnosis.failures(rows)


def test_who_may_not_look_at_the_daemon_set(api):
    installed.healthy(api)
    path = f"{release.DAEMON_SETS}/chrek-agent"
    installed.deny(api, "get", path, "daemonsets", group="apps", namespace="team")
    found = by_name(of_installed(api))
    assert found["release", "agents"].status is OK
    assert found["node n2", "clock"].status is OK


def test_who_may_not_make_the_checkpoints_of_the_values(api):
    installed.healthy(api)
    installed.add(api, release.config(prewarm=[release.prewarm()]))
    assert by_name(of_installed(api))["cluster", "prewarm"].status is OK
    path, kind = f"{release.CHECKPOINTS}/llama", "dynamocheckpoints"
    installed.deny(api, "patch", path, kind, group="nvidia.com", namespace="team")
    rows = of_installed(api)
    assert by_name(rows)["cluster", "prewarm"].detail == (
        "not allowed to look: the right to patch dynamocheckpoints.nvidia.com in namespace team "
        "is missing"
    )
    assert not diagnosis.failures(rows)


def test_who_may_not_look_at_nodes_and_there_is_no_agent(api):
    installed.healthy(api)
    for node in ("n1", "n2"):
        del api.objects[f"{release.PODS}/chrek-agent-{node}"]
    installed.deny(api, "list", release.NODES, "nodes")
    assert diagnosis.denied(by_name(of_installed(api))["release", "agents"])


def test_many_agents_of_which_only_the_pods_may_be_seen(api):
    nodes = [f"n{number}" for number in range(1, 8)]
    installed.healthy(api)
    release.running(api, nodes=nodes)
    for node in nodes:
        installed.answers(api, node, ("clock", "warn", "3 s ahead", "run NTP"))
    installed.deny(api, "list", release.NODES, "nodes")
    found = by_name(of_installed(api))
    assert found["nodes", "clock"].status is WARNING
    assert ("node n7", "agent") in found


def test_a_refusal_of_somebody_else(api):
    installed.healthy(api)
    path = f"{release.DEPLOYMENTS}/chrek-operator"
    api.refuse("GET", path, status=403, message="the gateway is closed at night")
    outcome = by_name(of_installed(api))["release", "operator"]
    assert outcome.status is WARNING
    assert diagnosis.denied(outcome)
    assert "the gateway is closed at night" in outcome.detail


LACKING = 'User "system:serviceaccount:team:x" cannot list resource "pods" in API group ""'


def test_rights_that_the_operator_lacks_are_no_right_of_whoever_looks(api):
    installed.healthy(api)
    release.running(api, replicas=0)
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    ended = {"terminated": {"message": LACKING}}
    api.add(
        release.PODS,
        {"status": {"containerStatuses": [{"state": waiting, "lastState": ended}]}},
        name="chrek-operator-1",
        labels=release.OPERATOR_LABELS,
    )
    outcome = by_name(of_installed(api))["release", "operator"]
    assert outcome.status is FAILED
    assert LACKING in outcome.detail


def test_rights_that_an_agent_lacks_are_no_right_of_whoever_looks(api):
    installed.healthy(api)
    release.agent(api, "n2", ready=False)
    installed.answers(api, "n2", ("api", "fail", LACKING, "helm upgrade"), ready=False)
    found = by_name(of_installed(api))
    assert LACKING in found["node n2", "agent"].detail
    assert found["release", "agents"].status is FAILED


def test_an_error_of_the_api_server_fails_one_check(api):
    installed.healthy(api)
    api.refuse("GET", release.CLASSES, status=500, message="etcd is gone")
    rows = of_installed(api)
    (wrong,) = diagnosis.failures(rows)
    assert wrong.name == "storage"
    assert "etcd is gone" in wrong.detail
    assert by_name(rows)["release", "operator"].status is OK


@pytest.mark.parametrize("status", [0, 401])
def test_nothing_can_be_asked(api, status):
    installed.healthy(api)
    cluster = release.connect(api)
    (found,) = releases.installed(reading.Reader(cluster, "team"))
    if status:
        api.refuse("GET", "/version", status=status, message="Unauthorized")
    else:
        api.__exit__()
    with pytest.raises(errors.ApiError) as caught:
        diagnosis.of_installed(cluster, found)
    assert caught.value.status == status


def test_before_an_installation(api):
    release.healthy(api)
    rows = of_rendered(api)
    assert set(statuses(rows).values()) == {OK}
    assert {row.group for row in rows} == {"cluster"}
    assert "pod-security" in {row.outcome.name for row in rows}


def test_before_an_installation_with_something_in_the_way(api):
    release.healthy(api)
    del api.objects[f"{release.CLASSES}/shared"]
    assert [outcome.name for outcome in diagnosis.failures(of_rendered(api))] == ["storage"]


def test_helm_installs_the_crds(api):
    release.healthy(api)
    del api.objects[f"{release.CRDS}/{release.CRD}"]
    found = by_name(of_rendered(api))["cluster", "crds"]
    assert found == report.ok("crds", "not there yet; helm install brings them")


def test_crds_that_serve_another_version(api):
    release.healthy(api)
    api.add(release.CRDS, release.crd(version="v9"))
    (wrong,) = diagnosis.failures(of_rendered(api))
    assert wrong.name == "crds"
    assert "not served" in wrong.detail


def test_who_may_not_look_at_crds_before_an_installation(api):
    release.healthy(api)
    path = f"{release.CRDS}/{release.CRD}"
    installed.deny(api, "get", path, "customresourcedefinitions", group="apiextensions.k8s.io")
    assert diagnosis.denied(by_name(of_rendered(api))["cluster", "crds"])


def test_helm_makes_the_namespace(api):
    release.healthy(api)
    del api.objects["/api/v1/namespaces/team"]
    api.refuse("POST", release.PODS, status=404, message='namespaces "team" not found')
    rows = of_rendered(api)
    found = by_name(rows)
    assert not diagnosis.failures(rows)
    assert found["cluster", "namespace"].status is WARNING
    assert "kubectl create namespace team" in found["cluster", "namespace"].hint
    assert ("cluster", "pod-security") not in found, "nobody can tell yet"
    assert ("cluster", "namespaces") not in found


def test_other_namespaces_must_be_there(api):
    release.healthy(api)
    del api.objects["/api/v1/namespaces/team"]
    config = release.config(watchNamespaces=["team", "models"])
    (wrong,) = diagnosis.failures(of_rendered(api, config))
    assert (wrong.name, wrong.detail) == ("namespaces", "models: not found")
    api.add("/api/v1/namespaces", {}, name="models")
    assert not diagnosis.failures(of_rendered(api, config))


def test_verdicts(api):
    installed.healthy(api)
    rows = of_installed(api)
    assert diagnosis.verdict(rows, again="x") == f"all {len(rows)} checks passed"
    installed.deny(api, "list", release.CLASSES, "storageclasses", group="storage.k8s.io")
    rows = of_installed(api)
    assert diagnosis.verdict(rows, again="x") == (
        f"none of {len(rows)} checks failed, 1 with a warning; 1 of them could not be made for "
        "want of rights"
    )
    del api.objects[f"{release.DEPLOYMENTS}/chrek-operator"]
    text = diagnosis.verdict(of_installed(api), again="look again")
    assert text.startswith("operator failed: Deployment chrek-operator: not found. To do: ")
    assert text.endswith("Then look again.")


def test_a_verdict_names_the_node():
    rows = [diagnosis.Row("node n1", report.failed("store", "gone", "mount it"))]
    assert diagnosis.verdict(rows, again="x") == ("n1/store failed: gone. To do: mount it. Then x.")
