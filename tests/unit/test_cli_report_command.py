"""`chrek report` as a person meets it: the command, its file, what it may not read."""

import pathlib
import stat

import pytest
from click import testing

import chrek
from chrek import cli, errors
from fakes import api_server, warm

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

BENCH = pathlib.Path(__file__).resolve().parents[2] / "docs" / "bench"


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: testing.CliRunner().invoke(cli.main, ["report", *arguments])


def test_a_file(api, run, tmp_path):
    pods = [warm.pod(start=warm.restored(steps={"criu": 0.95, "stage": 0.06}))]
    pods.append(warm.pod("llm-2", start=warm.cold("CheckpointNotReady")))
    warm.cluster(api, warm.checkpoint(), pods=pods)
    result = run("-o", "page.html")
    assert result.exit_code == 0, result.output
    assert result.stdout == "page.html: 1 checkpoints, 2 starts\n"
    assert result.stderr == ""
    text = (tmp_path / "page.html").read_text()
    for words in ("meta-llama/Llama-3-8B", "pod/llm-1", "1 of 2", "CheckpointNotReady"):
        assert words in text
    for words in ("chrek show llama -n team", "criu 0.950 s", "dump 1.200 s", chrek.__version__):
        assert words in text
    assert "Benchmark" not in text
    assert [path.name for path in tmp_path.glob("*page*")] == ["page.html"]
    assert not stat.S_IMODE((tmp_path / "page.html").stat().st_mode) & 0o111


def test_the_default_file_is_replaced(api, run, tmp_path):
    (tmp_path / "chrek-report.html").write_text("old")
    assert run().exit_code == 0
    text = (tmp_path / "chrek-report.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "chrek checkpoint deployment/NAME -n team" in text


def test_standard_output(api, run, tmp_path):
    warm.cluster(api, warm.checkpoint())
    result = run("-o", "-")
    assert result.stdout.startswith("<!DOCTYPE html>")
    assert result.stdout.rstrip().endswith("</html>")
    assert not list(tmp_path.glob("*.html"))


def test_all_namespaces(api, run):
    warm.cluster(api, warm.checkpoint(), everywhere=True)
    text = run("-A", "-o", "-").stdout
    assert "chrek report: all namespaces" in text
    assert ">Namespace</th>" in text
    assert run("-A", "-n", "team").exit_code == 2


def test_events_of_pods_that_are_gone(api, run):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod(start=warm.restored())])
    api.add(warm.EVENTS, warm.event("Restored"))
    api.add(warm.EVENTS, warm.event("AgentUnavailable", about="llm-0"))
    result = run("-o", "page.html")
    assert result.stdout == "page.html: 1 checkpoints, 2 starts\n"


def test_benchmarks(api, run, tmp_path):
    text = run("-o", "-", "--bench", str(BENCH)).stdout
    for words in ("Benchmark start", "6.86 s of 60 s, aim met", "aim missed", "warm start until"):
        assert words in text
    (tmp_path / "none").mkdir()
    result = run("--bench", "none")
    assert result.exit_code == errors.InputError.exit_code
    assert "none has no results of benchmarks" in result.stderr
    (tmp_path / "none" / "a.json").write_text("{")
    assert run("--bench", "none").exit_code == errors.InputError.exit_code
    assert run("--bench", "missing").exit_code == 2


def test_what_may_not_be_read_is_told(api, run):
    warm.cluster(api, warm.checkpoint())
    api.refuse("GET", warm.PODS, status=403, message="forbidden")
    result = run("-o", "-")
    assert result.exit_code == 0
    assert "note: you may not list pods in namespace team" in result.stderr
    assert "Not shown: you may not list pods in namespace team" in result.stdout
    assert "Pods may not be listed, so nothing is known of starts." in result.stdout
    api.refuse("GET", warm.CHECKPOINTS, status=403, message="forbidden")
    assert run("-o", "-").exit_code == errors.ApiError.exit_code


def test_a_file_that_cannot_be_written(api, run, tmp_path):
    result = run("-o", "missing/page.html")
    assert result.exit_code == errors.InputError.exit_code
    assert "error: missing/page.html: cannot be written: No such file" in result.stderr
    (tmp_path / "folder").mkdir()
    assert run("-o", "folder").exit_code == errors.InputError.exit_code
