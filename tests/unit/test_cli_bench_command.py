"""`chrek bench` as a person meets it."""

import json
import os
import signal
import subprocess
import sys
import time

import jsonschema
import pytest
import yaml
from click import testing

from chrek import cli, errors
from chrek.cli import bench_trials, page_bench, records
from fakes import kubelet, warm
from fakes.benches import deployment

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

ASKED = {"nvidia.com/chrek-checkpoint": "llama"}


@pytest.fixture
def api():
    with kubelet.Kubelet() as server:
        warm.cluster(server, warm.checkpoint())
        server.add(warm.DEPLOYMENTS, deployment(ASKED).raw)
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    return lambda *arguments: testing.CliRunner().invoke(cli.main, ["bench", *arguments])


def test_cold_and_warm_pods(api, run, tmp_path):
    file = tmp_path / "out" / "bench.json"
    file.parent.mkdir()
    result = run("deploy/llm", "--repeat=2", f"--output-file={file}")
    assert result.exit_code == 0, result.output
    said = result.stderr.splitlines()
    assert said[0] == (
        "4 pods of deployment/llm in namespace team, one at a time: 2 cold and 2 warm"
    )
    assert said[1] == "each requests nothing; warm from checkpoint llama"
    assert [line.split()[:2] for line in said[2:6]] == [
        ["1/4", "cold:"],
        ["2/4", "warm:"],
        ["3/4", "cold:"],
        ["4/4", "warm:"],
    ]
    rows = {line.split("  ")[0]: line for line in result.stdout.splitlines()[1:]}
    assert rows["together"].count(" s (") == 2
    assert rows["of it restore"].split()[-5:] == ["1.17", "s", "(1.17", "to", "1.17)"]
    assert not api.pods()
    document = json.loads(file.read_text())
    jsonschema.validate(document, records.schema("bench"))
    assert [trial["counted"] for trial in document["trials"]] == [True] * 4
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert [path.name for path in file.parent.iterdir()] == ["bench.json"]


def _umask():
    found = os.umask(0)
    os.umask(found)
    return found


def test_the_pods_that_are_made(api, run):
    assert run("deployment/llm", "--repeat=1", "--node=n1").exit_code == 0
    cold, warm_ = api.made()
    for pod in (cold, warm_):
        assert list(pod["metadata"]["labels"]) == ["chrek.nvidia.com/bench"]
        assert "ownerReferences" not in pod["metadata"]
        assert "n1" in json.dumps(pod["spec"]["affinity"])
    assert "annotations" not in cold["metadata"]
    assert warm_["metadata"]["annotations"] == ASKED


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_as_data(run, output):
    result = run("deployment/llm", "--repeat=1", "--cold=0", "-o", output)
    found = yaml.safe_load(result.stdout)
    jsonschema.validate(found, records.schema("bench"))
    assert (found["workload"], found["checkpoint"]) == ("deployment/llm", "llama")
    assert found["medians"]["warm_restore_seconds"] == 1.17
    assert "cold_ready_seconds" not in found["medians"]


def test_names_of_the_pods(api, run):
    result = run("deployment/llm", "--repeat=1", "-o", "name")
    made = [pod["metadata"]["name"] for pod in api.made()]
    assert result.stdout.splitlines() == [f"pod/{name}" for name in made]


def test_a_report_draws_it(run, tmp_path):
    folder = tmp_path / "benches"
    folder.mkdir()
    run("deployment/llm", "--repeat=1", f"--output-file={folder / 'x.json'}")
    (document,) = page_bench.read(folder)
    labels = {one.label: one.unit for one in page_bench.figures(document)}
    assert labels["cold ready"] == labels["warm ready"] == labels["warm restore"] == "s"
    assert "speed up ready" in labels


def test_one_warm_pod_of_two_is_enough(api, run):
    starts = iter([warm.cold("AgentBusy", "32 restores wait"), warm.restored()])

    def story(pod):
        states = [kubelet.scheduled, kubelet.running, kubelet.ready]
        return [*states, kubelet.told(next(starts))]

    api.story = story
    result = run("deployment/llm", "--repeat=2", "--cold=0", "-o", "json")
    assert result.exit_code == 0
    first, second = json.loads(result.stdout)["trials"]
    assert (first["counted"], first["reason"]) == (False, "AgentBusy")
    assert second["counted"]
    assert "not counted: it started cold: AgentBusy: 32 restores wait" in result.stderr


def test_no_warm_pod_at_all(api, run):
    start = kubelet.told(warm.cold("ImageDiffers", "image: captured a, here b"))
    api.story = lambda pod: [kubelet.scheduled, kubelet.running, kubelet.ready, start]
    result = run("deployment/llm", "--repeat=1", "--cold=0")
    assert result.exit_code == 3
    assert "error: no warm pod was restored\n  hint: " in result.stderr
    assert "chrek retry llama -n team" in result.stderr
    assert "0 cold pods, 0 warm pods" in result.stdout


def test_a_pod_without_room(api, run, tmp_path):
    file = tmp_path / "bench.json"
    api.story = lambda pod: [kubelet.no_room]
    result = run("deployment/llm", "--timeout=1", f"--output-file={file}")
    assert result.exit_code == 3
    words = "Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    assert f"was not Ready within 1 s: {words}\n  hint: make room for" in result.stderr
    assert json.loads(file.read_text())["problem"].endswith(words)
    assert not api.pods()


def test_a_dry_run_prints_a_pod_of_each_kind(api, run):
    result = run("deployment/llm", "--dry-run", "--cold=1")
    assert result.exit_code == 0, result.output
    found = yaml.safe_load(result.stdout)
    assert (found["kind"], len(found["items"])) == ("List", 2)
    cold, warm_ = found["items"]
    assert cold["spec"] == warm_["spec"]
    assert warm_["metadata"]["annotations"] == ASKED
    assert "4 pods" in result.stderr
    assert "POST" not in {method for method, *_ in api.requests}
    assert json.loads(run("deployment/llm", "--dry-run", "-o", "json").stdout)["kind"] == "List"
    (line,) = run("deployment/llm", "--dry-run", "--cold=0", "-o", "name").stdout.splitlines()
    assert line.endswith("-warm-1")


def test_what_is_missing_is_known_before_a_pod_is_made(api, run, tmp_path):
    api.allowed = lambda verb: verb != "delete"
    result = run("deployment/llm", f"--output-file={tmp_path / 'x.json'}")
    assert result.exit_code == errors.ApiError.exit_code
    assert "error: you may not delete pods in namespace team" in result.stderr
    api.allowed = lambda verb: True
    api.injects = False
    assert run("deployment/llm").exit_code == errors.InputError.exit_code
    result = run("deployment/llm", f"--output-file={tmp_path / 'nowhere' / 'x.json'}")
    assert result.exit_code == errors.InputError.exit_code
    assert "x.json: cannot be written: No such file" in result.stderr
    assert not api.made()
    assert [path.name for path in tmp_path.iterdir()] == ["config"]


def test_a_right_that_goes_meanwhile(api, run, monkeypatch):
    """A crash, an API server that refuses: nothing stays."""

    def refused(pod):
        raise errors.ApiError("the API server refuses", status=403)

    monkeypatch.setattr(bench_trials, "reached", refused)
    result = run("deployment/llm")
    assert result.exit_code == errors.ApiError.exit_code
    assert "cold-1 deleted\n" in result.stderr
    assert not api.pods()


@pytest.mark.parametrize(
    "arguments", [[], ["deploy/llm", "--repeat=0"], ["deploy/llm", "--cold=-1"]]
)
def test_wrong_usage(run, arguments):
    assert run(*arguments).exit_code == 2


def test_no_reference(run):
    result = run("llm")
    assert result.exit_code == errors.InputError.exit_code
    assert "'llm' is not the name of a workload" in result.stderr


def test_no_such_workload(run):
    result = run("deployment/other")
    assert result.exit_code == errors.InputError.exit_code
    assert "there is no Deployment other in namespace team" in result.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_leaves_nothing(api, tmp_path, number, code):
    api.story = lambda pod: [kubelet.scheduled]
    command = [sys.executable, "-c", "from chrek.cli import main; main()", "bench"]
    child = subprocess.Popen(
        [*command, "deployment/llm"],
        env={**os.environ, "KUBECONFIG": str(api.kubeconfig(tmp_path, "team"))},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(query.get("watch") for _, _, query, _ in list(api.requests)):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.02)
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == code, said
    (made,) = api.made()
    assert said.splitlines()[-1] == f"pod {made['metadata']['name']} deleted"
    assert not api.pods()
