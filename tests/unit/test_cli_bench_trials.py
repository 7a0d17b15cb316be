"""One pod after the other: made, followed, deleted, whatever happens."""

import pytest
from kubernetes import client

from chrek import errors
from chrek.cli import bench_trials, reading
from chrek.kube import workstation
from fakes import kubelet, warm
from fakes.benches import plan

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")


@pytest.fixture
def api():
    with kubelet.Kubelet() as server:
        warm.cluster(server, warm.checkpoint())
        yield server


@pytest.fixture
def bench(api):
    """Runs a plan; gives its trials, what was said, and why it ended early."""
    configuration = client.Configuration()
    configuration.host = api.url
    configuration.retries = 0
    reader = reading.Reader(workstation.Cluster(configuration), "team")

    def run(**fields):
        said = run.said = []
        with bench_trials.Trials(reader, plan(**fields), say=said.append) as trials:
            found = list(trials.run())
        return found, said, trials.problem

    return run


def test_a_cold_and_a_warm_pod(api, bench):
    (cold, warm_), said, problem = bench(cold=1, warm=1)
    assert not problem
    assert (cold.kind, cold.outcome, cold.counted) == ("cold", "unmanaged", True)
    assert (warm_.kind, warm_.outcome, warm_.counted) == ("warm", "restored", True)
    assert (warm_.restore_seconds, cold.restore_seconds) == (1.17, None)
    assert warm_.node == "n1"
    for one in (cold, warm_):
        moments = [one.created, one.scheduled, one.started, one.ready]
        assert moments == sorted(moments)
        assert one.created > 0
    assert said[0].startswith("1/2 cold: chrek-bench-abc-cold-1 Ready after 0.")
    assert said[1].endswith(" on node n1, restored in 1.17 s")
    assert not api.pods()
    assert [pod["metadata"]["name"] for pod in api.made()] == [cold.pod, warm_.pod]


def test_one_at_a_time(api, bench):
    there = []
    usual = api.on_create

    def created(path, body):
        there.append(len(api.pods()))
        usual(path, body)

    api.on_create = created
    found, _, _ = bench(cold=2, warm=2)
    assert len(found) == 4
    assert there == [0] * 4


@pytest.mark.parametrize("cut", [1, 2])
def test_watches_that_are_cut(api, bench, cut):
    """What happens meanwhile is seen by a look."""
    api.cut = cut
    (trial,), _, _ = bench(cold=1, warm=0)
    assert trial.counted
    assert trial.scheduled <= trial.started <= trial.ready


def test_a_version_that_the_server_has_forgotten(api, bench):
    watches = []

    class Handler(api._server.RequestHandlerClass):
        def _get(self, path, query, body):
            if query.get("watch"):
                watches.append(query["resourceVersion"])
                if len(watches) == 1:
                    return self._answer(410, {"message": "too old resource version"})
            return super()._get(path, query, body)

    api._server.RequestHandlerClass = Handler
    (trial,), _, _ = bench(cold=1, warm=0)
    assert trial.counted
    assert len(watches) > 1


def test_a_warm_pod_that_started_cold(api, bench):
    start = kubelet.told(warm.cold("ImageDiffers", "image: captured a, here b"))
    api.story = lambda pod: [kubelet.scheduled, kubelet.running, kubelet.ready, start]
    (trial,), said, problem = bench(cold=0, warm=1)
    assert (trial.counted, trial.outcome, trial.reason) == (False, "cold", "ImageDiffers")
    assert not problem, "the others may still be restored"
    assert said[0].endswith("not counted: it started cold: ImageDiffers: image: captured a, here b")


def test_an_agent_that_never_says_how_it_started(api, bench, monkeypatch):
    monkeypatch.setattr(bench_trials, "SETTLE_SECONDS", 0.2)
    api.story = lambda pod: [kubelet.scheduled, kubelet.running, kubelet.ready]
    path = f"{warm.PODS}/chrek-bench-abc-warm-1/log"
    api.texts[path] = b"chrek: Falling back to cold start: AgentUnavailable: no agent\n"
    (trial,), _, _ = bench(cold=0, warm=1)
    assert (trial.counted, trial.reason) == (False, "AgentUnavailable")


def test_an_image_that_is_pulled(api, bench):
    name = "chrek-bench-abc-cold-1"
    api.add(warm.EVENTS, warm.event("Pulling", about=name, component="kubelet"))
    (trial,), _, _ = bench(cold=1, warm=0)
    assert trial.pulled


def test_no_room_in_the_words_of_the_scheduler(api, bench):
    api.story = lambda pod: [kubelet.no_room]
    (trial,), said, problem = bench(timeout=1)
    words = "Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    assert said[0] == f"1/6 cold: {trial.pod} waits: {words}"
    assert trial.problem == f"was not Ready within 1 s: {words}"
    assert problem == f"pod {trial.pod} {trial.problem}"
    assert said[-1] == f"pod {trial.pod} deleted"
    assert (trial.counted, trial.ready) == (False, None)
    assert len(api.made()) == 1
    assert not api.pods()


def test_an_image_that_cannot_be_pulled(api, bench):
    def waits(pod):
        waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
        pod["status"]["containerStatuses"] = [{"name": "main", "state": {"waiting": waiting}}]

    api.story = lambda pod: [kubelet.scheduled, waits]
    (trial,), _, _ = bench(timeout=1)
    assert trial.problem.endswith("container main: ImagePullBackOff: no such image")
    assert trial.scheduled is not None
    assert trial.started is None


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([kubelet.scheduled], "not all of its containers run yet"),
        ([kubelet.scheduled, kubelet.running], "its readiness probe does not pass"),
    ],
)
def test_a_pod_that_takes_too_long(api, bench, states, words):
    api.story = lambda pod: states
    (trial,), _, _ = bench(timeout=0.2)
    assert trial.problem == f"was not Ready within 0 s: {words}"


def test_a_pod_that_ends(api, bench):
    def fails(pod):
        pod["status"].update(phase="Failed", reason="Evicted", message="low on memory")

    api.story = lambda pod: [kubelet.scheduled, fails]
    (trial,), _, _ = bench()
    assert trial.problem == "ended before it was Ready: Evicted low on memory"
    assert not api.pods()


def test_a_pod_that_somebody_deletes(api, bench):
    def vanishes(pod):
        del api.objects[f"{warm.PODS}/{pod['metadata']['name']}"]

    api.story = lambda pod: [kubelet.scheduled]

    class Handler(api._server.RequestHandlerClass):
        def _send(self, kind, item):
            super()._send(kind, item)
            if kind == "MODIFIED":
                vanishes(item)

    api._server.RequestHandlerClass = Handler
    (trial,), said, problem = bench()
    assert trial.problem == "was deleted by somebody"
    assert problem
    assert not any(line.endswith(" deleted") for line in said)


def test_a_pod_that_does_not_go(api, bench, monkeypatch):
    monkeypatch.setattr(bench_trials, "GONE_SECONDS", 0.3)

    class Handler(api._server.RequestHandlerClass):
        def _delete(self, path, query, body):
            self._answer(200, {"kind": "Status"})

    api._server.RequestHandlerClass = Handler
    found, _, problem = bench()
    assert len(found) == 1
    assert "is still being deleted" in problem


def test_what_cannot_be_deleted_is_said(api, bench):
    path = f"{warm.PODS}/chrek-bench-abc-cold-1"
    api.refuse("DELETE", path, status=403, message="forbidden")
    with pytest.raises(errors.ApiError, match="you may not delete pods"):
        bench()
    assert "do it: kubectl delete pod chrek-bench-abc-cold-1 -n team" in bench.said[-1]


def test_a_creation_that_is_refused_leaves_nothing_to_delete(api, bench):
    api.refuse("POST", warm.PODS, status=403, message="exceeded quota")
    with pytest.raises(errors.ApiError, match="exceeded quota"):
        bench()
    assert bench.said == []
    assert "DELETE" not in {method for method, *_ in api.requests}


def test_a_creation_of_which_nobody_knows(api, bench):
    api.refuse("POST", warm.PODS, status=504, message="the webhook did not answer in time")
    with pytest.raises(errors.ApiError, match="did not answer in time"):
        bench()
    assert "DELETE" in {method for method, *_ in api.requests}
    assert bench.said == [], "there was none"


def test_a_creation_without_an_answer_may_have_made_a_pod(api, bench):
    class Handler(api._server.RequestHandlerClass):
        def _post(self, path, query, body):
            api.objects[f"{path}/{body['metadata']['name']}"] = body
            self.close_connection = True
            self.connection.close()

    api._server.RequestHandlerClass = Handler
    with pytest.raises(errors.ApiError) as caught:
        bench()
    assert caught.value.status == 0
    assert bench.said == ["pod chrek-bench-abc-cold-1 deleted"]
    assert not api.pods()


def test_whatever_happens_the_pod_is_deleted(api, bench):
    def interrupted(pod):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_trials, "reached", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench()
    assert bench.said == ["pod chrek-bench-abc-cold-1 deleted"]
    assert not api.pods()


def test_moments_of_a_pod():
    pod = {"spec": {"containers": [{}, {}]}, "status": {"containerStatuses": []}}
    assert list(bench_trials.reached(pod)) == []
    pod["spec"]["nodeName"] = "n1"
    pod["status"]["containerStatuses"] = [{"state": {"running": {}}}, {"state": {"waiting": {}}}]
    assert list(bench_trials.reached(pod)) == ["scheduled"]
    pod["status"]["containerStatuses"][1]["restartCount"] = 1
    assert list(bench_trials.reached(pod)) == ["scheduled", "started"]
