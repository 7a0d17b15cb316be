"""Every subcommand behaves as one command line: help, imports, clusters that are not as hoped."""

import json
import re
import shlex
import subprocess
import sys

import click
import pytest
from click import testing

from chrek import cli, errors
from fakes import api_server, installed, release, warm

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

COMMANDS = sorted(cli._COMMANDS)
MANY = 1000
IDENTITY = ["--model", warm.IDENTITY["model"], "--backend", warm.IDENTITY["backendFramework"]]
ASKING = {
    "bench": ["deployment/llm", "--checkpoint", "llama", "--dry-run"],
    "checkpoint": ["deployment/llm", *IDENTITY, "--dtype", "fp8"],
    "diff": ["llm-1", "llama"],
    "doctor": [],
    "explain": ["llm-1"],
    "list": [],
    "prune": ["--dry-run", "--unused-for", "1d"],
    "report": ["-o", "-"],
    "retry": ["llama", "--dry-run"],
    "show": ["llama"],
}
"""Commands that ask a cluster -> arguments that make sense in that of `busy`."""
ALONE = {
    "agent": (["--config", "/nonexistent/agent.yaml"], errors.ConfigError),
    "completion": (["bash"], None),
    "copy": (["/nonexistent/a", "/nonexistent/b", "--all"], errors.StoreError),
    "dump": (["nothing", "--state", "/nonexistent"], errors.InputError),
    "export": (["/nonexistent/a", warm.HASH, "/nonexistent/x.tar"], errors.StoreError),
    "hash": (["{identity}"], None),
    "import": (["/nonexistent/x.tar", "/nonexistent/a"], errors.InputError),
    "operator": (["--config", "/nonexistent/operator.yaml"], errors.ConfigError),
    "restore": (["nothing", "--state", "/nonexistent"], errors.InputError),
    "run": (["--name", "no/name", "--", "true"], errors.InputError),
    "verify": (["/nonexistent/a", "--all"], errors.StoreError),
}
"""Commands that need no Kubernetes client -> arguments, and how that ends on a bare machine."""
RIGHTS = {
    "bench": ("GET", f"{warm.DEPLOYMENTS}/llm", "get deployments.apps"),
    "checkpoint": ("GET", f"{warm.DEPLOYMENTS}/llm", "get deployments.apps"),
    "doctor": ("GET", release.CONFIG_MAPS, "list configmaps"),
    "explain": ("GET", f"{warm.PODS}/llm-1", "get pods"),
}
"""What is refused to those who need something else than the list of checkpoints."""
CLIENTS = {"kubernetes", "urllib3", "rich"}


def test_every_command_is_looked_at():
    assert sorted([*ASKING, *ALONE]) == COMMANDS


def command_of(name):
    found = cli.main.get_command(click.Context(cli.main), name)
    assert found is not None
    return found


def examples(text):
    """Command lines of chrek in the examples of a help: what a shell makes of them."""
    _, heading, rest = text.partition("  Example:\n")
    assert heading, "no example"
    joined = re.sub(r"\\\n\s*", "", rest.partition("\n\nOptions:")[0])
    found = []
    for line in re.findall(r"^ *\$ (.+)$", joined, re.MULTILINE):
        for part in re.split(r"\| |<\(", line):
            words = shlex.split(re.split(r" >|\)$", part)[0])
            if words[0] == "sudo":
                words = words[1:]
            if words[0] == "chrek":
                found.append(words[1:])
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_its_help_parse(name, monkeypatch, tmp_path):
    for folder in ("aws", "bench", "docs/bench"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    command = command_of(name)
    text = command.get_help(click.Context(command, info_name=name, parent=None))
    found = examples(text)
    assert [words for words in found if words[0] == name], "no example of itself"
    for first, *words in found:
        command_of(first).make_context(first, [*words])


def test_an_example_that_is_wrong_would_be_found():
    text = "  Example:\n    $ cat x | chrek show \\\n        a --nonsense\n    a line of output\n"
    ((name, *words),) = examples(text)
    assert (name, words) == ("show", ["a", "--nonsense"])
    with pytest.raises(click.UsageError):
        command_of(name).make_context(name, words)


@pytest.mark.parametrize("name", ASKING)
def test_its_help_has_the_exit_codes_and_the_cluster_s_options(name):
    command = command_of(name)
    text = command.get_help(click.Context(command, info_name=name))
    codes = {int(code) for code in re.findall(r"^    (\d+) +\w", text, re.MULTILINE)}
    assert {0, 2, errors.ConfigError.exit_code, errors.ApiError.exit_code} <= codes
    assert "-n, --namespace" in text
    assert "--context" in text
    assert "table|json|yaml|name" in text or name == "report"


LOOK = """
import contextlib, io, json, sys
from chrek import cli
found = {}
for name, arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([name, *arguments])
        except SystemExit as end:
            code = end.code
    loaded = sorted({one.partition(".")[0] for one in sys.modules} & set(json.loads(sys.argv[2])))
    found[f"{name} {arguments}"] = (code, out.getvalue(), err.getvalue(), loaded)
print(json.dumps(found))
"""


def looked(calls, packages):
    """Call commands one after the other in a process without a cluster."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps(calls), json.dumps(sorted(packages))],
        env={"KUBECONFIG": "/nonexistent/config", "HOME": "/nonexistent", "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_and_wrong_usage_load_no_client_and_nothing_for_terminals():
    calls = [(name, [word]) for name in COMMANDS for word in ("--help", "--no-such-option")]
    # What follows `--` is the program's.
    calls.remove(("run", ["--no-such-option"]))
    found = looked(calls, CLIENTS)
    assert {call: loaded for call, (*_, loaded) in found.items() if loaded} == {}
    for call, (code, out, err, _) in found.items():
        assert code == (0 if "--help" in call else 2), call
        assert "Usage: " in (out if "--help" in call else err), call


def test_on_a_machine_without_kubernetes(tmp_path):
    file = tmp_path / "identity.yaml"
    file.write_text(json.dumps(warm.IDENTITY))
    calls = {
        name: [word.replace("{identity}", str(file)) for word in words]
        for name, (words, _) in ALONE.items()
    }
    found = looked([*calls.items()], {"kubernetes"})
    assert len(found) == len(ALONE)
    for (name, (_, kind)), (code, out, err, loaded) in zip(
        ALONE.items(), found.values(), strict=True
    ):
        assert not loaded, name
        assert "Traceback" not in err
        if kind is None:
            assert (code or 0, err) == (0, ""), name
            assert out, name
        else:
            assert code == kind.exit_code, f"{name}: {err}"
            assert re.match(r"error: .+\n  hint: .+\n", err), name


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    """Runs a command that asks a cluster; a traceback is a failure."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))

    def call(name, *more):
        result = testing.CliRunner().invoke(cli.main, [name, *ASKING[name], *more])
        assert isinstance(result.exception, SystemExit | None), result.exception
        assert "Traceback" not in result.output
        return result

    return call


def busy(api, checkpoints=1):
    """A namespace with a release, and with as many checkpoints, and their pods and graphs."""
    installed.healthy(api)
    api.add(warm.WEBHOOKS, warm.webhook(warm.NAMESPACE))
    api.add(warm.DEPLOYMENTS, warm.deployment())
    api.add(warm.CHECKPOINTS, warm.checkpoint())
    api.add(warm.PODS, warm.pod(start=warm.restored()))
    for number in range(1, checkpoints):
        name = f"llama-{number}"
        item = warm.checkpoint(name)
        item["spec"]["identity"] = {**warm.IDENTITY, "model": name}
        item["status"]["identityHash"] = f"{number:016x}"
        api.add(warm.CHECKPOINTS, item)
        api.add(warm.PODS, warm.pod(f"{name}-1", wanted=name, start=warm.restored()))
        section = {"enabled": True, "checkpointRef": name}
        graph = {"spec": {"services": {"Worker": {"checkpoint": section}}}}
        api.add(warm.GRAPHS, graph, name=name, namespace="team")


def failed(result, kind, *words):
    assert result.exit_code == kind.exit_code, result.output
    assert result.stdout == ""
    assert re.match(r"error: .+\n  hint: .+\n$", result.stderr), result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("name", ASKING)
def test_without_a_kubeconfig(run, monkeypatch, name):
    monkeypatch.setenv("KUBECONFIG", "/nonexistent/config")
    failed(run(name), errors.ConfigError, "set KUBECONFIG")


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.timeout(30)
def test_where_nobody_listens(api, run, name):
    api.__exit__()
    failed(run(name), errors.ApiError, "no answer from", "KUBECONFIG and --context")


@pytest.mark.parametrize("name", ASKING)
def test_without_a_right(api, run, name):
    busy(api)
    default = ("GET", warm.CHECKPOINTS, "list dynamocheckpoints.nvidia.com")
    method, path, right = RIGHTS.get(name, default)
    api.refuse(method, path, status=403, message="forbidden")
    failed(
        run(name), errors.ApiError, f"you may not {right}", f"kubectl auth can-i {right} -n team"
    )


@pytest.mark.parametrize("name", ASKING)
def test_with_a_user_that_nobody_knows(api, run, name):
    busy(api)
    for path in (warm.CHECKPOINTS, f"{warm.DEPLOYMENTS}/llm", f"{warm.PODS}/llm-1", "/version"):
        api.refuse("GET", path, status=401, message="Unauthorized")
    failed(run(name), errors.ApiError, "Unauthorized (401)", "log in again")


@pytest.mark.parametrize("name", ASKING)
def test_without_crds(api, run, name):
    busy(api)
    for path in [one for one in api.objects if "/nvidia.com/" in one]:
        del api.objects[path]
    api.objects.pop(f"{release.CRDS}/{release.CRD}")
    for kind in (warm.CHECKPOINTS, warm.GRAPHS):
        for method in ("GET", "POST"):
            api.refuse(method, kind, status=404, message="404 page not found")
    result = run(name)
    if name == "doctor":
        assert result.exit_code == errors.ChrekError.exit_code
        assert re.search(r"fail +crds .*\n +-> ", result.stdout)
    elif name == "explain":
        assert result.exit_code == 0, "the pod itself tells how it started"
        assert "chrek's CRDs are not installed" in result.stdout
    else:
        failed(result, errors.ApiError, "chrek's CRDs are not installed", "helm install chrek")


@pytest.mark.parametrize("name", ASKING)
def test_with_nothing_there(run, name):
    result = run(name)
    if name in ("list", "prune", "report"):
        assert result.exit_code == 0, result.output
    else:
        failed(result, errors.InputError)


@pytest.mark.parametrize("name", ASKING)
def test_with_many_checkpoints(api, run, name):
    busy(api, MANY)
    result = run(name)
    assert result.exit_code == 0, result.output
    assert "note: " not in result.stderr
    if name == "list":
        assert len(result.stdout.splitlines()) == 1 + MANY
    if name == "prune":
        assert "0 artifacts" in result.stdout
        assert f"  {MANY}, " in result.stdout


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("fill", [False, True])
def test_kubectl_has_the_same_command(api, run, monkeypatch, name, fill):
    """It says the same, and every line to copy has the name that was used."""
    if fill:
        busy(api)
    told = []
    for path in ("/usr/bin/chrek", "/usr/bin/kubectl-chrek"):
        monkeypatch.setattr("sys.argv", [path])
        result = run(name, *(["--dry-run"] if name == "checkpoint" else []))
        # What is another one each time: seconds, times and names of pods.
        text = re.sub(r"\d+ ms|[\d:T Z-]{12,}|'?\b[0-9a-f]{6}\b'?", "", result.output)
        told.append((result.exit_code, text))
    (code, plain), (other, by_kubectl) = told
    assert code == other
    assert by_kubectl.replace("kubectl chrek", "chrek") == plain
    # The page of a report has that for a title.
    called = "|".join(one for one in COMMANDS if name != "report" or one != "report")
    assert not re.search(rf"(?<!kubectl )\bchrek ({called})\b", by_kubectl)
