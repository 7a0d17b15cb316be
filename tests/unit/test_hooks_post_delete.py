import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import msgspec
import pytest
import yaml

from chrek import errors
from chrek.checks import report
from chrek.hooks import post_delete, program
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "hooks" / "post_delete.py"
LABELS = {"app.kubernetes.io/component": "clean-up"}
SET = f"{release.DAEMON_SETS}/chrek-clean-up"
BY_HAND = "rm -rf /var/lib/chrek/signals/team-chrek"
MANIFEST = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "chrek-clean-up", "namespace": "team"},
    "spec": {
        "selector": {"matchLabels": LABELS},
        "template": {
            "metadata": {"labels": LABELS},
            "spec": {
                "affinity": {"nodeAffinity": {"kept": True}},
                "initContainers": [{"name": "clean-up", "command": ["python3"]}],
                "containers": [{"name": "wait"}],
            },
        },
    },
}
CLEANED = {"state": {"terminated": {"exitCode": 0, "message": "removed /a\n"}}}
PULLING = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}


class Cluster:
    """What makes pods of DaemonSets, gives them nodes and runs them."""

    def __init__(self, api, nodes):
        self.api = api
        self.nodes = list(nodes)
        self.ends = dict.fromkeys(nodes, CLEANED)
        """Status of the container that cleans up, by node; none while there is none."""
        self.made = []
        self.lacking = 0
        self.left = []
        """Nodes whose pods do not go with the DaemonSet."""
        for name in nodes:
            self.node(name)
        api.on_create = self.created
        api.on_delete = self.deleted

    def node(self, name, *, ready=True):
        state = "True" if ready else "Unknown"
        body = {"spec": {}, "status": {"conditions": [{"type": "Ready", "status": state}]}}
        self.api.add(release.NODES, body, name=name)

    def agent(self, node):
        release.agent(self.api, node, ready=True)

    def created(self, path, body):
        if path != release.DAEMON_SETS:
            return
        self.made.append(body)
        body["metadata"] |= {"uid": f"uid-{len(self.made)}", "generation": 1}
        body["status"] = {"observedGeneration": 1, "desiredNumberScheduled": len(self.nodes)}
        for node in self.nodes[self.lacking :]:
            self.pod(node, body["metadata"]["uid"])

    def pod(self, node, owner):
        agents = [p for p in self.api.objects if p == f"{release.PODS}/chrek-agent-{node}"]
        ended = None if agents else self.ends[node]
        field = {"key": "metadata.name", "operator": "In", "values": [node]}
        required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
        spec = {"affinity": {"nodeAffinity": {post_delete.REQUIRED: required}}}
        status = {"conditions": [{"type": "PodScheduled", "status": "False"}]}
        if ended is not None:
            spec = {"nodeName": node}
            status = {"initContainerStatuses": [{"name": "clean-up", **ended}]}
        self.api.add(
            release.PODS,
            {"spec": spec, "status": status},
            name=f"chrek-clean-up-{node}",
            labels=LABELS,
            ownerReferences=[{"kind": "DaemonSet", "uid": owner}],
        )

    def deleted(self, path):
        if path == SET:
            for node in set(self.nodes) - set(self.left):
                self.api.objects.pop(f"{release.PODS}/chrek-clean-up-{node}", None)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    patience = {"POLL": 0.01, "START": 60.0, "DEADLINE": 0.6, "AGENT": 0.3, "GONE": 0.1}
    for name, seconds in patience.items():
        monkeypatch.setattr(post_delete, f"{name}_SECONDS", seconds)


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def live(api):
    return Cluster(api, ["n1", "n2"])


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "clean-up.yaml").write_text(yaml.safe_dump(MANIFEST))
    return tmp_path


@contextlib.contextmanager
def once_asked(api, method, path, act, *, times=2):
    """Meanwhile, `act` is called when something has been asked so many times."""
    over = threading.Event()

    def watch():
        while sum((m, p) == (method, path) for m, p, _, _ in list(api.requests)) < times:
            if over.wait(0.002):
                return
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def clean_up(api, directory, **changes):
    """The outcomes by name."""
    context = program.Context(release.connect(api), release.config(**changes), directory)
    return {outcome.name: outcome for outcome in post_delete.clean_up(context)}


def warned(found):
    return {name for name, one in found.items() if one.status is report.Status.WARNING}


def test_every_node_is_cleaned_and_named(api, live, directory):
    found = clean_up(api, directory)
    assert {outcome.status for outcome in found.values()} == {report.Status.OK}
    assert list(found) == ["node n1", "node n2", "nodes", "clean-up"]
    assert found["node n2"].detail == "removed /a"
    assert found["nodes"].detail == "2 of 2 cleaned"


def test_nothing_is_left_in_the_namespace(api, live, directory):
    before = set(api.objects)
    clean_up(api, directory)
    assert set(api.objects) == before
    clean_up(api, directory)
    assert set(api.objects) == before


def test_a_run_that_was_ended_leaves_nothing_in_the_way(api, live, directory):
    """Its DaemonSet is replaced, and its pods are not taken for ours."""
    live.ends["n2"] = None
    live.left = ["n2"]
    live.created(release.DAEMON_SETS, old := {"metadata": {"name": "chrek-clean-up"}})
    api.objects[SET] = old
    live.ends["n2"] = CLEANED
    found = clean_up(api, directory)
    assert len(live.made) == 2
    assert found["nodes"].detail == "2 of 2 cleaned"


def test_a_pod_of_an_earlier_daemonset_says_nothing(api, live, directory):
    live.nodes = ["n1"]
    live.pod("n2", "uid-0")
    found = clean_up(api, directory)
    assert "node n2" not in found
    assert warned(found) == {"clean-up"}
    assert found["clean-up"].detail == "pods are still there: chrek-clean-up-n2"


def test_no_node_is_for_agents(api, directory):
    Cluster(api, [])
    found = clean_up(api, directory)
    assert list(found) == ["nodes", "clean-up"]
    assert found["nodes"].detail == "agents were for none"
    assert not warned(found)


def test_what_the_daemonset_is_told(api, live, directory, monkeypatch):
    monkeypatch.setenv("POD_NAME", "me")
    monkeypatch.setenv("POD_UID", "my-uid")
    begin = time.time()
    clean_up(api, directory)
    (made,) = live.made
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "me", "uid": "my-uid"}
    assert made["metadata"]["ownerReferences"] == [owner]
    spec = made["spec"]["template"]["spec"]
    (until,) = spec["initContainers"][0]["args"]
    patience = post_delete.DEADLINE_SECONDS + post_delete.EXPIRY_SECONDS
    assert until.startswith("--until=")
    assert begin + patience - 2 < float(until.partition("=")[2]) < time.time() + patience + 1
    assert spec["affinity"] == {
        "nodeAffinity": {"kept": True},
        "podAntiAffinity": {
            post_delete.REQUIRED: [
                {
                    "labelSelector": {"matchLabels": release.AGENT_LABELS},
                    "topologyKey": "kubernetes.io/hostname",
                }
            ]
        },
    }


def test_what_values_keep_agents_apart_from_counts_as_well():
    theirs = {"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "zone"}
    manifest = json.loads(json.dumps(MANIFEST))
    affinity = {"podAntiAffinity": {post_delete.REQUIRED: [theirs]}}
    manifest["spec"]["template"]["spec"]["affinity"] = affinity
    made = post_delete.order(manifest, {"c": "d"}, expires=1.0, owner=None)
    terms = made["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"][post_delete.REQUIRED]
    assert terms[0] == theirs
    assert len(terms) == 2
    assert "ownerReferences" not in made["metadata"]
    assert manifest["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"] == {
        post_delete.REQUIRED: [theirs]
    }


def test_an_agent_that_ends_in_time_is_waited_for(api, live, directory, monkeypatch):
    for name in ("AGENT", "DEADLINE"):
        monkeypatch.setattr(post_delete, f"{name}_SECONDS", 60.0)
    live.agent("n2")

    def end():
        del api.objects[f"{release.PODS}/chrek-agent-n2"]
        live.pod("n2", "uid-1")

    with once_asked(api, "GET", SET, end):
        found = clean_up(api, directory)
    assert not warned(found)
    assert found["nodes"].detail == "2 of 2 cleaned"


def test_an_agent_that_does_not_end_keeps_its_node(api, live, directory, monkeypatch):
    monkeypatch.setattr(post_delete, "DEADLINE_SECONDS", 60.0)
    live.agent("n2")
    begin = time.monotonic()
    found = clean_up(api, directory)
    assert time.monotonic() - begin < 30
    assert warned(found) == {"node n2"}
    assert found["node n2"].detail == "agent chrek-agent-n2 has not ended"
    assert found["node n2"].hint == f"when it has, run there: {BY_HAND}"
    assert found["node n1"].status is report.Status.OK
    assert found["nodes"].detail == "1 of 2 cleaned"


def test_an_agent_where_none_was_for_is_named_too(api, live, directory):
    live.agent("n9")
    assert warned(clean_up(api, directory)) == {"node n9"}


def test_nobody_waits_for_a_node_that_is_not_ready(api, live, directory, monkeypatch):
    monkeypatch.setattr(post_delete, "DEADLINE_SECONDS", 60.0)
    live.node("n1", ready=False)
    live.ends["n1"] = {"state": {"waiting": {"reason": "PodInitializing"}}}
    live.left = ["n1"]
    found = clean_up(api, directory)
    assert warned(found) == {"node n1", "clean-up"}
    assert found["node n1"].detail == "the node is NotReady"
    assert found["node n1"].hint == f"when it is back, run there: {BY_HAND}"
    assert found["clean-up"].detail == "pods are still there: chrek-clean-up-n1"


def test_an_image_that_cannot_be_pulled(api, live, directory):
    live.ends["n1"] = PULLING
    found = clean_up(api, directory)
    assert warned(found) == {"node n1"}
    assert found["node n1"].detail == "ImagePullBackOff: not found"
    assert found["node n1"].hint == f"run there: {BY_HAND}"


@pytest.mark.parametrize(
    ("ended", "detail"),
    [
        ({"exitCode": 3, "message": "log\n/a stays: why"}, "/a stays: why"),
        ({"exitCode": 137, "reason": "OOMKilled"}, "OOMKilled (exit code 137)"),
    ],
)
@pytest.mark.parametrize("key", ["state", "lastState"])
def test_a_clean_up_that_failed_is_told_at_once(
    api, live, directory, monkeypatch, ended, detail, key
):
    monkeypatch.setattr(post_delete, "DEADLINE_SECONDS", 60.0)
    live.ends["n2"] = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        key: {"terminated": ended},
    }
    found = clean_up(api, directory)
    assert warned(found) == {"node n2"}
    assert found["node n2"].detail == detail


def test_a_pod_that_finds_no_room(api, live, directory):
    live.ends["n1"] = None
    api.on_create = lambda path, body: (live.created(path, body), unschedulable())

    def unschedulable():
        pod = api.objects.get(f"{release.PODS}/chrek-clean-up-n1")
        if pod:
            facts = {"reason": "Unschedulable", "message": "Insufficient cpu"}
            pod["status"]["conditions"][0] |= facts

    found = clean_up(api, directory)
    assert found["node n1"].detail == "Unschedulable: Insufficient cpu"


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        (release.PODS, 403, "exceeded quota: all"),
        (release.PODS, 403, "violates PodSecurity"),
        (release.DAEMON_SETS, 403, "namespace team is being terminated"),
        (release.DAEMON_SETS, 404, "namespaces team not found"),
        (release.DAEMON_SETS, 422, "invalid"),
    ],
)
def test_a_refusal_is_told_and_no_failure(api, live, directory, path, status, message):
    api.refuse("POST", path, status=status, message=message)
    found = clean_up(api, directory, nodePaths=["/s/team-chrek", "/c/team-chrek"])
    (outcome,) = found.values()
    assert outcome.status is report.Status.WARNING
    assert outcome.detail.startswith("no clean-up is admitted: ")
    assert message in outcome.detail
    assert outcome.hint == (
        "run on each node that had an agent: rm -rf /s/team-chrek /c/team-chrek"
    )
    assert live.made == []


def test_a_daemonset_that_gets_too_few_pods(api, live, directory):
    live.lacking = 1
    found = clean_up(api, directory)
    assert warned(found) == {"nodes"}
    assert found["nodes"].detail == "1 cleaned; the DaemonSet has not made all its pods"
    assert found["nodes"].hint.endswith(f"is not named here: {BY_HAND}")


def test_a_controller_that_does_nothing(api, live, directory):
    def created(path, body):
        live.created(path, body)
        if path == release.DAEMON_SETS:
            body["status"] = {}

    live.lacking = 2
    api.on_create = created
    found = clean_up(api, directory)
    assert warned(found) == {"nodes"}
    assert found["nodes"].detail.startswith("0 cleaned; ")


def test_somebody_deletes_the_daemonset_meanwhile(api, live, directory, monkeypatch):
    """The namespace goes, or a tool tidies up."""
    monkeypatch.setattr(post_delete, "DEADLINE_SECONDS", 60.0)
    live.ends["n1"] = PULLING
    with once_asked(api, "GET", SET, lambda: api.objects.pop(SET), times=3):
        found = clean_up(api, directory)
    # Here nobody collects its pods.
    assert warned(found) == {"node n1", "clean-up"}
    assert found["node n2"].status is report.Status.OK


def test_a_node_stays_clean_when_its_pod_is_replaced(api, live, directory, monkeypatch):
    monkeypatch.setattr(post_delete, "DEADLINE_SECONDS", 60.0)
    live.ends["n1"] = PULLING

    def replace():
        live.ends = {"n1": CLEANED, "n2": None}
        for node in ("n2", "n1"):
            live.pod(node, "uid-1")

    with once_asked(api, "GET", SET, replace, times=3):
        found = clean_up(api, directory)
    assert not warned(found)


def test_rights_that_come_a_moment_later(api, live, directory):
    """Tools other than Helm make the Job and its rights at once."""
    for path in (release.NODES, release.PODS):
        api.refuse("GET", path, status=403, message="forbidden")
    with (
        once_asked(api, "GET", release.NODES, lambda: api.refusals.pop(("GET", release.NODES))),
        once_asked(api, "GET", release.PODS, api.refusals.clear),
    ):
        assert clean_up(api, directory)["nodes"].detail == "2 of 2 cleaned"


def test_rights_that_never_come(api, live, directory, monkeypatch):
    monkeypatch.setattr(post_delete, "START_SECONDS", 0.1)
    api.refuse("GET", release.NODES, status=403, message="forbidden")
    with pytest.raises(errors.ApiError, match="forbidden"):
        clean_up(api, directory)
    assert live.made == []


def test_one_that_is_deleted_in_the_foreground_is_waited_for(api, live, directory):
    """It is there until its pods are gone, and its name is taken so long."""
    api.refuse("POST", release.DAEMON_SETS, status=409, message="already exists")
    with once_asked(api, "POST", release.DAEMON_SETS, api.refusals.clear):
        assert clean_up(api, directory)["nodes"].detail == "2 of 2 cleaned"


def test_an_api_server_that_has_no_answer_is_a_failure(api, live, directory, monkeypatch):
    """And no refusal of pods: what to do is to look at it."""
    monkeypatch.setattr(post_delete, "START_SECONDS", 0.1)
    api.refuse("POST", release.PODS, status=500, message="internal")
    with pytest.raises(errors.ApiError, match="internal"):
        clean_up(api, directory)
    assert live.made == []


@pytest.mark.parametrize("path", [release.NODES, SET])
def test_an_api_server_that_stumbles_is_asked_again(api, live, directory, monkeypatch, path):
    monkeypatch.setattr(post_delete, "DEADLINE_SECONDS", 60.0)
    api.refuse("GET", path, status=429, message="later")
    with once_asked(api, "GET", path, api.refusals.clear):
        assert not warned(clean_up(api, directory))


def test_an_api_server_that_refuses_is_a_failure_and_the_daemonset_goes(api, live, directory):
    def created(path, body):
        live.created(path, body)
        if path == release.DAEMON_SETS:
            api.refuse("GET", SET, status=403, message="forbidden")

    api.on_create = created
    with pytest.raises(errors.ApiError, match="forbidden"):
        clean_up(api, directory)
    assert SET not in api.objects


def test_without_the_charts_file(api, tmp_path):
    with pytest.raises(errors.ConfigError, match=r"clean-up\.yaml: not found"):
        clean_up(api, tmp_path)


def test_the_program_exits_with_zero_although_a_node_stays(
    api, live, directory, monkeypatch, capsys
):
    """Helm would say that the uninstallation failed, and everything is gone."""
    live.agent("n2")
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(directory, "team")))
    monkeypatch.setattr(program, "TERMINATION_LOG", directory / "termination-log")
    (directory / "release.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(release.config())))
    with pytest.raises(SystemExit) as ended:
        post_delete.main([f"--directory={directory}"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"-> when it has, run there: {BY_HAND}" in said
    assert said.splitlines()[-1] == "post-delete: all 4 checks passed, 1 with a warning"


def test_a_run_that_is_told_to_end_takes_the_daemonset_along(api, live, directory):
    """Its Job's deadline, or somebody who deletes the Job."""
    live.ends["n1"] = PULLING
    (directory / "release.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(release.config())))
    with (
        subprocess.Popen(
            [sys.executable, PROGRAM, f"--directory={directory}"],
            env={**os.environ, "KUBECONFIG": str(api.kubeconfig(directory, "team"))},
        ) as running,
        once_asked(api, "GET", SET, running.terminate, times=3),
    ):
        assert running.wait(30) == 128 + signal.SIGTERM
    assert SET not in api.objects
    assert [method for method, path, _, _ in api.requests if path == SET][-1] == "DELETE"
