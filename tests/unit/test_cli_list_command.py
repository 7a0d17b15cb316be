"""`chrek list` as a person meets it; what all commands on checkpoints have in common."""

import json
import subprocess
import sys

import jsonschema
import pytest
import yaml
from click import testing

from chrek import cli, errors
from chrek.cli import records
from fakes import api_server, warm

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

COMMANDS = ("diff", "explain", "list", "retry", "show", "verify")
ARGUMENTS = {
    "diff": ["llm-1", "llama"],
    "explain": ["llm-1"],
    "list": [],
    "retry": ["llama"],
    "show": ["llama"],
}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
    return lambda *arguments: testing.CliRunner().invoke(cli.main, arguments)


def test_a_table(api, run):
    warm.cluster(api, warm.checkpoint(), warm.checkpoint("a", "Failed"), pods=[warm.pod()])
    result = run("list")
    assert result.exit_code == 0, result.output
    head, failed, ready = (line.split() for line in result.stdout.splitlines())
    assert head[:5] == ["NAME", "MODEL", "BACKEND", "PHASE", "HASH"]
    assert failed[:4] == ["a", "meta-llama/Llama-3-8B", "vllm", "Failed"]
    assert (ready[0], ready[3], ready[5], ready[6]) == ("llama", "Ready", "1", "1.3Gi")
    assert ready[-2:] == ["1", "pod"]
    assert result.stderr == ""


def test_all_namespaces(api, run):
    warm.cluster(api, warm.checkpoint(), everywhere=True)
    lines = run("list", "-A").stdout.splitlines()
    assert lines[0].split()[:2] == ["NAMESPACE", "NAME"]
    assert lines[1].split()[:2] == ["team", "llama"]
    assert run("list", "-A", "-n", "team").exit_code == 2


def test_data(api, run):
    warm.cluster(api, warm.checkpoint(), pods=[warm.pod(start=warm.restored())])
    document = json.loads(run("list", "-o", "json").stdout)
    jsonschema.validate(document, records.schema("list"))
    (one,) = document["checkpoints"]
    assert one["lastUsedAt"] == warm.T0
    assert one["users"] == {"pods": ["llm-1"], "graphs": []}
    assert yaml.safe_load(run("list", "-o", "yaml").stdout) == document
    assert run("list", "-o", "name").stdout == "dynamocheckpoint.nvidia.com/llama\n"


def test_graphs_are_users(api, run):
    warm.cluster(api, warm.checkpoint())
    section = {"enabled": True, "checkpointRef": "llama"}
    graph = {"spec": {"services": {"Worker": {"checkpoint": section}}}}
    api.add(warm.GRAPHS, graph, name="my-llm", namespace="team")
    assert run("list").stdout.splitlines()[1].endswith("  my-llm")


def test_an_empty_list_says_what_next(api, run):
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        "namespace team has no checkpoints; make one of a workload that runs: chrek checkpoint "
        "deployment/NAME -n team --model MODEL --backend vllm\n"
    )
    assert "there are no checkpoints" in run("list", "-A").stderr
    assert json.loads(run("list", "-o", "json").stdout) == {"checkpoints": []}
    assert run("list", "-o", "name").output == ""


def test_pods_that_may_not_be_listed(api, run):
    warm.cluster(api, warm.checkpoint())
    api.refuse("GET", warm.PODS, status=403, message="forbidden")
    result = run("list")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].endswith("  ?")
    assert result.stderr == "note: you may not list pods in namespace team\n"
    assert json.loads(run("list", "-o", "json").stdout)["checkpoints"][0]["users"] is None


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "explain"])
def test_without_a_right(api, run, name):
    warm.cluster(api, pods=[warm.pod()])
    api.refuse("GET", warm.CHECKPOINTS, status=403, message="forbidden")
    result = run(name, *ARGUMENTS[name])
    assert result.exit_code == errors.ApiError.exit_code
    assert result.stdout == ""
    assert result.stderr.startswith(
        "error: you may not list dynamocheckpoints.nvidia.com in namespace team\n  hint: ask for "
    )


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "explain"])
def test_without_crds(api, run, name):
    api.refuse("GET", warm.CHECKPOINTS, status=404, message="page not found")
    result = run(name, *ARGUMENTS[name])
    assert result.exit_code == errors.ApiError.exit_code
    assert result.stderr == (
        "error: chrek's CRDs are not installed in this cluster\n"
        "  hint: install chrek: helm install chrek charts/chrek --namespace NAMESPACE\n"
    )


@pytest.mark.parametrize("name", ARGUMENTS)
def test_without_a_cluster(api, run, name):
    api.__exit__()
    result = run(name, *ARGUMENTS[name])
    assert result.exit_code == errors.ApiError.exit_code
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 2
    assert "no answer from" in result.stderr


@pytest.mark.parametrize("name", ARGUMENTS)
def test_without_a_kubeconfig(run, monkeypatch, tmp_path, name):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = run(name, *ARGUMENTS[name])
    assert result.exit_code == errors.ConfigError.exit_code
    assert "set KUBECONFIG" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help(run, name):
    text = run(name, "--help").stdout
    flat = " ".join(text.split())
    assert cli._COMMANDS[name] in flat, "as in the list of commands"
    assert f"$ chrek {name} " in text
    assert "Exit code:" in text
    assert "  0   " in text
    assert "table|json|yaml|name" in text


@pytest.mark.parametrize(
    "arguments",
    [["list", "x"], ["show"], ["explain"], ["diff"], ["retry"], ["verify", "/"],
     ["verify", "/", "--all", "x"], ["list", "-o", "wide"],
     ["retry", "a", "--wait", "--dry-run"]],
)  # fmt: skip
def test_wrong_usage(run, arguments):
    assert run(*arguments).exit_code == 2


def loaded(*arguments):
    code = (
        "import sys, chrek.cli\n"
        f"try:\n    chrek.cli.main({[*arguments]})\n"
        "except SystemExit:\n    pass\n"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


HEAVY = {"kubernetes", "urllib3", "aiohttp", "rich", "jsonschema", "cryptography", "obstore"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loads_nothing_heavy(name):
    assert loaded(name, "--help") & HEAVY == set()


def test_what_it_is_called_by():
    code = (
        "import sys\nfrom chrek.cli import main\n"
        "sys.argv = ['/usr/bin/kubectl-chrek', *sys.argv[1:]]\nmain()"
    )
    for arguments in (["--help"], ["list", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("Usage: kubectl chrek ")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/kubectl-chrek", "kubectl chrek"),
        ("kubectl-chrek.exe", "kubectl chrek"),
        ("/a/chrek", "chrek"),
        ("-c", "chrek"),
    ],
)
def test_program(monkeypatch, path, expected):
    monkeypatch.setattr("sys.argv", [path])
    assert cli.program() == expected
    monkeypatch.setattr("sys.argv", [])
    assert cli.program() == "chrek"


def test_lines_to_copy_have_the_name(run, monkeypatch):
    monkeypatch.setattr("sys.argv", ["kubectl-chrek"])
    assert "kubectl chrek checkpoint deployment/NAME" in run("list").stderr
