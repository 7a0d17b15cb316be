"""What is offered for arguments and options: names of the cluster, the kubeconfig, the machine."""

import json
import threading

import pytest
from click import shell_completion

from chrek import cli
from chrek.cli import completing
from fakes import api_server, warm

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

STATEFUL_SETS = "/apis/apps/v1/namespaces/team/statefulsets"
JOBS = "/apis/batch/v1/namespaces/team/jobs"


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        checkpoints = [warm.checkpoint("llama"), warm.checkpoint("mistral")]
        warm.cluster(server, *checkpoints, pods=[warm.pod("llm-1"), warm.pod("llm-2")])
        server.add(warm.DEPLOYMENTS, warm.deployment("llm"))
        server.add(STATEFUL_SETS, {}, name="lm")
        server.add(JOBS, {}, name="batch")
        for name in ("other", "team"):
            server.add("/api/v1/namespaces", {}, name=name)
        yield server


@pytest.fixture
def config(api, tmp_path, monkeypatch):
    path = api.kubeconfig(tmp_path, "team")
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


def offered(*words):
    """The values for the last word."""
    shell = shell_completion.ShellComplete(cli.main, {}, "chrek", "_X")
    return [item.value for item in shell.get_completions([*words[:-1]], words[-1])]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["show", ""], ["llama", "mistral"]),
        (["show", "m"], ["mistral"]),
        (["show", "llama", ""], []),
        (["retry", "--wait", "l"], ["llama"]),
        (["explain", ""], ["llm-1", "llm-2", "deployment/llm", "statefulset/lm"]),
        (["explain", "llm"], ["llm-1", "llm-2"]),
        (["explain", "j"], ["job/batch"]),
        (["explain", "deployment/"], ["deployment/llm"]),
        (["explain", "sts/l"], ["sts/lm"]),
        (["explain", "nonsense/"], []),
        (["checkpoint", ""], ["deployment/llm", "statefulset/lm"]),
        (["checkpoint", "p"], ["pod/llm-1", "pod/llm-2"]),
        (["diff", "ll"], ["llama", "llm-1", "llm-2"]),
        (["diff", "dckpt/m"], ["dckpt/mistral"]),
        (["diff", "deploy/"], ["deploy/llm"]),
        (["diff", "llm-1", ""], ["llama", "mistral"]),
        (["diff", "llm-1", "llama", ""], ["mistral"]),
        (["list", "-n", ""], ["other", "team"]),
        (["checkpoint", "--namespace", "o"], ["other"]),
        (["list", "--context", ""], ["c"]),
        (["list", "--output", "j"], ["json"]),
    ],
)
def test_names(config, words, wanted):
    assert offered(*words) == wanted


def test_the_options_typed_before_count(api, config):
    elsewhere = warm.CHECKPOINTS.replace("team", "other")
    api.add(elsewhere, warm.checkpoint("far"))
    assert offered("show", "-n", "other", "") == ["far"]
    raw = json.loads(config.read_text())
    raw["contexts"].append(
        {"name": "d", "context": {"cluster": "c", "user": "u", "namespace": "other"}}
    )
    config.write_text(json.dumps(raw))
    assert offered("show", "--context=d", "") == ["far"]
    assert offered("show", "--context=d", "--namespace", "team", "m") == ["mistral"]


def test_who_may_not_list_namespaces_gets_those_of_the_kubeconfig(api, config):
    api.refuse("GET", "/api/v1/namespaces", status=403, message="no")
    assert offered("list", "-n", "") == ["team"]


def test_what_one_may_not_list_leaves_the_others(api, config):
    api.refuse("GET", warm.PODS, status=403, message="no")
    assert offered("explain", "") == ["deployment/llm", "statefulset/lm"]


def test_a_credential_plugin_has_the_official_client_ask(api, config, tmp_path):
    plugin = tmp_path / "plugin"
    token = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    text = json.dumps({**token, "status": {"token": "t"}})
    plugin.write_text(f"#!/bin/sh\necho '{text}'\n")
    plugin.chmod(0o755)
    raw = json.loads(config.read_text())
    program = {"apiVersion": token["apiVersion"], "command": str(plugin), "args": []}
    raw["users"] = [{"name": "u", "user": {"exec": {**program, "interactiveMode": "Never"}}}]
    config.write_text(json.dumps(raw))
    assert offered("show", "") == ["llama", "mistral"]
    assert offered("list", "-n", "t") == ["team"]


@pytest.mark.parametrize(
    "words", [["show", ""], ["explain", ""], ["checkpoint", ""], ["diff", ""], ["list", "-n", ""]]
)
@pytest.mark.parametrize("broken", ["nothing", "nonsense", "nobody", "refused"])
def test_what_goes_wrong_gives_nothing_and_says_nothing(
    api, config, tmp_path, monkeypatch, capfd, words, broken
):
    if broken == "nothing":
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    elif broken == "nonsense":
        config.write_text("{")
    elif broken == "nobody":
        config.write_text(config.read_text().replace(api.url, "http://127.0.0.1:1"))
    else:
        for path in (
            *(warm.CHECKPOINTS, warm.PODS, warm.DEPLOYMENTS, STATEFUL_SETS),
            "/api/v1/namespaces",
        ):
            api.refuse("GET", path, status=500, message="no")
    assert offered(*words) == []
    assert capfd.readouterr() == ("", "")


def test_an_answer_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(completing, "SECONDS", 0.01)
    answer = threading.Event()

    def ask():
        answer.wait()
        return ["late"]

    assert completing._bounded(ask) == []
    answer.set()


def test_programs_of_this_machine(tmp_path, monkeypatch):
    for name in ("web", "worker"):
        (tmp_path / name).mkdir()
    (tmp_path / "a-file").write_text("")
    assert offered("restore", "--state", str(tmp_path), "") == ["web", "worker"]
    assert offered("dump", f"--state={tmp_path}", "wo") == ["worker"]
    assert offered("run", "--state", str(tmp_path), "--name", "we") == ["web"]
    assert offered("restore", "--state", str(tmp_path / "missing"), "") == []


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["hash", "x"], "file"),
        (["hash", "a.yaml", "x"], "file"),
        (["import", "x"], "file"),
        (["import", "--identity", "x"], "file"),
        (["export", "/a", "0123", "x"], "file"),
        (["doctor", "--manifests", "x"], "file"),
        (["report", "-o", "x"], "file"),
        (["run", "x"], "file"),
        (["verify", "x"], "dir"),
        (["copy", "/a", "x"], "dir"),
    ],
)
def test_files_are_left_to_the_shell(words, kind):
    shell = shell_completion.ShellComplete(cli.main, {}, "chrek", "_X")
    (item,) = shell.get_completions(words[:-1], words[-1])
    assert (item.type, item.value) == (kind, "x")
