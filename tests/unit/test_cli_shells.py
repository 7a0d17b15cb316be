"""Completion as shells meet it, and kubectl."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest
from click import testing

from chrek import cli
from chrek.cli import shells
from fakes import api_server, warm

ROOT = pathlib.Path(__file__).resolve().parents[2]
BREAKS = " \t\n\"'><=;|&(:"
"""Where bash takes words apart unless it is told otherwise."""


@pytest.fixture
def api(tmp_path, monkeypatch):
    with api_server.ApiServer() as server:
        warm.cluster(server, warm.checkpoint("llama"), warm.checkpoint("mistral"))
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, "team")))
        yield server


@pytest.fixture
def program(tmp_path, monkeypatch):
    """`chrek` on PATH."""
    path = tmp_path / "bin" / "chrek"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom chrek.cli import main\nmain()\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


@pytest.fixture
def bash(monkeypatch):
    def ask(line, breaks=BREAKS):
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_WORDBREAKS", breaks)
        return shells.Bash(cli.main, {}, "chrek", shells.VARIABLE).complete().splitlines()

    return ask


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("chrek sh", ["plain,show"]),
        ("chrek re", ["plain,report", "plain,restore", "plain,retry"]),
        ("chrek show --time", ["plain,--timeline"]),
        ("chrek show --timeline --time", []),
        ("chrek list -o ", ["plain,table", "plain,json", "plain,yaml", "plain,name"]),
        ("chrek list --output=js", ["plain,json"]),
        ("chrek list --output= ", []),
        ("chrek show --nonsense=", []),
        ("chrek hash some/pa", ["file,some/pa"]),
        ("chrek hash 'with a bl", ["file,with a bl"]),
    ],
)
def test_lines_of_bash(bash, line, wanted):
    assert bash(line) == wanted


def test_every_command_is_offered_with_what_it_does():
    found = shells.answers(cli.main, [""])
    assert found == [*(f"{name}\t{line}" for name, line in sorted(cli._COMMANDS.items())), ":4"]


def test_bash_puts_the_part_behind_the_last_break_in_place(bash, api, tmp_path):
    path = tmp_path / "config"
    raw = json.loads(path.read_text())
    raw["contexts"][0]["name"] = "arn:aws:eks:1:cluster/a"
    path.write_text(json.dumps(raw))
    assert bash("chrek list --context arn:aws:e") == ["plain,eks:1:cluster/a"]
    assert bash("chrek list --context=arn:") == ["plain,aws:eks:1:cluster/a"]
    assert bash("chrek list --context=a") == ["plain,arn:aws:eks:1:cluster/a"]
    assert bash("chrek list --context=a", " ") == ["plain,--context=arn:aws:eks:1:cluster/a"]


def test_in_real_bash(api, program):
    asked = """
        source <(chrek completion bash)
        ask() {
            COMP_LINE="$1" COMP_POINT=${2:-${#1}}
            read -ra COMP_WORDS <<< "$1"; COMP_CWORD=${#COMP_WORDS[@]}
            _chrek_completion chrek
            printf '%s|' "${COMPREPLY[@]}"; echo
        }
        complete -p chrek
        ask 'chrek exp'
        ask 'chrek show '
        ask 'chrek show --namespace=team m'
        ask 'chrek show nothing' 7
        ask 'chrek show -n other '
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "complete -o nosort -F _chrek_completion chrek",
        "explain|export|",
        "llama|mistral|",
        "mistral|",
        "show|",
        "|",
    ]
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_in_another_shell(api, program, shell):
    found = shutil.which(shell)
    if not found:
        pytest.skip(f"optional: no {shell} here")
    if shell == "fish":
        text = (
            "chrek completion fish | source; complete --do-complete 'chrek show --namespace=team m'"
        )
    else:
        text = (
            "compdef() { }; source <(chrek completion zsh); words=(chrek show m) CURRENT=3;"
            "compadd() { print -- $@ $completions }; _chrek_completion"
        )
    done = subprocess.run([found, "-c", text], capture_output=True, text=True, check=False)
    assert "mistral" in done.stdout, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_replace_the_whole_word(api, shell):
    api.add("/api/v1/namespaces", {}, name="team")
    made = shells.SHELLS[shell](cli.main, {}, "chrek", shells.VARIABLE)
    found = made.get_completions(["show"], "--namespace=t")
    assert [item.value for item in found] == ["--namespace=team"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_by_the_variable_that_chrek_reads(shell):
    result = testing.CliRunner().invoke(cli.main, ["completion", shell])
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"_CHREK_COMPLETE={shell}_complete" in result.stdout
    assert shells.VARIABLE == cli._COMPLETE


def test_fish_cuts_no_description_at_its_commas():
    assert 'string split --max 1 "," $completion' in shells.script("fish")


def test_another_shell_is_wrong_usage():
    assert testing.CliRunner().invoke(cli.main, ["completion", "csh"]).exit_code == 2


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["sho"], ["show\tShow one checkpoint in full: its artifacts, captures and users.", ":4"]),
        (["show", ""], ["llama", "mistral", ":4"]),
        (["show", "--context=c", "m"], ["mistral", ":4"]),
        (["hash", ""], [":0"]),
        (["verify", ""], [":16"]),
    ],
)
def test_answers_to_kubectl(api, words, wanted):
    assert shells.answers(cli.main, words) == wanted


def test_the_program_that_kubectl_finds(api):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["kubectl_complete-chrek"] == "chrek.cli.shells:kubectl"
    code = "from chrek.cli import shells; shells.kubectl()"
    done = subprocess.run(
        [sys.executable, "-c", code, "show", "l"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("llama\n:4\n", "")


def loaded(line):
    """Modules that an answer to bash has loaded."""
    code = (
        "import sys\nfrom chrek.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    )
    environ = {**os.environ, "COMP_LINE": line, "_CHREK_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def commands(modules):
    return {name for name in modules if name.endswith("_command")}


def test_names_of_commands_load_none_and_options_one(api):
    assert commands(loaded("chrek sh")) == set()
    assert commands(loaded("chrek explain --al")) == {"chrek.cli.explain_command"}
    modules = loaded("chrek show ")
    assert commands(modules) == {"chrek.cli.show_command"}
    assert not {"kubernetes", "urllib3", "aiohttp", "msgspec", "rich"} & modules
