"""The `chrek` command as a user meets it: stdout, stderr, exit code."""

import subprocess
import sys

import pytest
from click import testing

import chrek
from chrek import cli, errors

CHECKPOINT = """
apiVersion: nvidia.com/v1alpha1
kind: DynamoCheckpoint
metadata: {name: warm}
spec:
  identity: {model: meta-llama/Llama-2-7b-hf, backendFramework: vllm}
"""
GRAPH = """
apiVersion: nvidia.com/v1alpha1
kind: DynamoGraphDeployment
metadata: {name: my-llm}
spec:
  services:
    Frontend: {replicas: 1}
    VllmWorker:
      checkpoint:
        enabled: true
        mode: auto
        identity: {model: meta-llama/Llama-3-8B, backendFramework: vllm, dtype: bfloat16}
"""
OTHER = """
kind: Service
spec: {identity: not ours}
"""


@pytest.fixture
def run(tmp_path):
    """Runs `chrek ...`; keyword arguments become files, named by their path in the arguments."""

    def call(*arguments, stdin=None, **files):
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        paths = [str(tmp_path / f"{a}.yaml") if a in files else a for a in arguments]
        return testing.CliRunner().invoke(cli.main, paths, input=stdin)

    return call


def test_hash_of_a_checkpoint(run):
    result = run("hash", "a", a=CHECKPOINT)
    assert (result.exit_code, result.stdout) == (0, "96429b2725761a09  warm\n")


def test_hashes_of_several_objects_and_files(run):
    result = run("hash", "a", "b", a=GRAPH + "---" + OTHER, b=CHECKPOINT)
    assert result.stdout == "5941a4cb3c363457  my-llm/VllmWorker\n96429b2725761a09  warm\n"


def test_a_list_as_kubectl_prints_it(run):
    item = "- " + CHECKPOINT.strip().replace("\n", "\n  ")
    result = run("hash", "a", a=f"kind: List\nitems:\n{item}\n")
    assert result.stdout == "96429b2725761a09  warm\n"


def test_standard_input(run):
    assert run("hash", "-", stdin=CHECKPOINT).stdout == "96429b2725761a09  warm\n"


def test_canonical_text(run):
    result = run("hash", "--canonical", "a", a=CHECKPOINT)
    assert result.stdout.startswith('{"model":"meta-llama/Llama-2-7b-hf","backendFramework":"vllm"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OTHER, "no identity in it"),
        ("", "no identity in it"),
        ("a: [", "not YAML"),
        (CHECKPOINT.replace("vllm}", "tgi}"), "warm: spec.identity.backendFramework: 'tgi' is not"),
        ("kind: DynamoCheckpoint", "unnamed: spec.identity: expected an object"),
    ],
)
def test_bad_input_is_named_with_its_place(run, text, message):
    result = run("hash", "a", a=text)
    assert result.exit_code == errors.InputError.exit_code
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "\n  hint: " in result.stderr
    assert "Traceback" not in result.stderr


def test_one_bad_object_does_not_hide_the_others(run):
    result = run("hash", "a", "b", a=CHECKPOINT, b=CHECKPOINT.replace("vllm}", "tgi}"))
    assert result.stdout == "96429b2725761a09  warm\n"
    assert result.exit_code == errors.InputError.exit_code


def test_a_file_that_is_not_there(run):
    result = run("hash", "/nonexistent/x.yaml")
    assert result.exit_code == errors.InputError.exit_code
    assert "/nonexistent/x.yaml: cannot be read: No such file or directory" in result.stderr


@pytest.mark.parametrize("program", ["agent", "operator"])
def test_a_program_without_its_configuration(run, program):
    result = run(program, "--config", "/nonexistent/chrek.yaml")
    assert result.exit_code == errors.ConfigError.exit_code
    assert "/nonexistent/chrek.yaml" in result.stderr


def test_prune_without_its_configuration(run):
    result = run("prune", "--config", "/nonexistent/chrek.yaml", "--namespace", "ns", "0" * 16)
    assert result.exit_code == errors.ConfigError.exit_code
    assert "/nonexistent/chrek.yaml" in result.stderr


def test_prune_reads_its_paths_before_it_asks_anybody(run):
    result = run("prune", "--config", "/nonexistent", "--namespace", "ns", "0/1/2/3")
    assert result.exit_code == errors.InputError.exit_code
    assert "'0/1/2/3' is not a path in the store" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["hash"], ["nonsense"], ["agent"], ["prune"], ["--nonsense"]]
)
def test_wrong_usage(run, arguments):
    assert run(*arguments).exit_code == 2


def test_help_lists_every_command(run):
    text = run("--help").stdout
    assert all(f"\n  {name}" in text for name in ("agent", "hash", "operator", "prune"))


@pytest.mark.parametrize("name", ["agent", "hash", "operator", "prune"])
def test_help_line_and_command_say_the_same(run, name):
    listed = cli._COMMANDS[name]
    assert run(name, "--help").exit_code == 0
    shown = " ".join(run(name, "--help").stdout.split())
    assert listed.split(" in YAML")[0].removesuffix(".").split(" of ")[0] in shown


def test_the_installed_command(tmp_path):
    command = [sys.executable, "-c", "from chrek.cli import main; main()", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"chrek {chrek.__version__}\n"
