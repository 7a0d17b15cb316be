"""The `chrek` command as a user meets it: stdout, stderr, exit code."""

import hashlib
import json
import subprocess
import sys

import jsonschema
import pytest
import yaml
from click import testing

import chrek
from chrek import cli, errors
from chrek.cli import records

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
COMMANDS = (
    *("agent", "bench", "checkpoint", "completion", "copy", "diff", "doctor", "dump", "explain"),
    "export",
    *("hash", "import", "list", "operator", "prune", "report"),
    *("restore", "retry", "run", "show", "verify"),
)
CONFIG = {
    "apiVersion": "chrek.nvidia.com/v1alpha1",
    "release": "team-chrek",
    "watchNamespaces": ["team"],
}
PROGRAMS = {
    "agent": {**CONFIG, "kind": "AgentConfig"},
    "operator": {
        **{**CONFIG, "kind": "OperatorConfig", "initImage": "chrek-init:0"},
        **{"leaseName": "l", "webhookName": "w", "webhookServiceName": "s"},
        **{"certificateSecretName": "c", "agentServiceAccountName": "a"},
    },
}
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


def test_hashes_as_data(run):
    result = run("hash", "a", "b", "-ojson", a=GRAPH, b=CHECKPOINT)
    document = json.loads(result.stdout)
    jsonschema.validate(document, records.schema("hash"))
    first, second = document["identities"]
    assert (first["hash"], first["name"]) == ("5941a4cb3c363457", "my-llm/VllmWorker")
    assert second["file"].endswith("/b.yaml")
    digest = hashlib.sha256(second["canonical"].encode()).hexdigest()
    assert digest.startswith(second["hash"])
    assert yaml.safe_load(run("hash", "a", "b", "-oyaml", a=GRAPH, b=CHECKPOINT).stdout) == document
    assert run("hash", "-oname", "a", a=CHECKPOINT).stdout == "96429b2725761a09\n"
    assert run("hash", "-ojson", "--canonical", "a", a=CHECKPOINT).exit_code == 2


def test_data_beside_a_bad_object(run):
    result = run("hash", "-ojson", "a", "b", a=CHECKPOINT, b="")
    assert [one["name"] for one in json.loads(result.stdout)["identities"]] == ["warm"]
    assert result.exit_code == errors.InputError.exit_code


def test_a_list_as_kubectl_prints_it(run):
    item = "- " + CHECKPOINT.strip().replace("\n", "\n  ")
    result = run("hash", "a", a=f"kind: List\nitems:\n{item}\n")
    assert result.stdout == "96429b2725761a09  warm\n"


def test_standard_input(run):
    assert run("hash", "-", stdin=CHECKPOINT).stdout == "96429b2725761a09  warm\n"


def test_a_typed_list_as_the_api_server_answers_it(run):
    item = json.dumps(yaml.safe_load(CHECKPOINT))
    result = run("hash", "a", a=f'{{"kind": "DynamoCheckpointList", "items": [{item}]}}')
    assert result.stdout == "96429b2725761a09  warm\n"


@pytest.mark.parametrize("spelling", ["backendFramework", "framework"])
def test_an_identity_by_itself_is_called_as_its_model(run, spelling):
    text = f"model: meta-llama/Llama-2-7b-hf\n{spelling}: vllm\n"
    wanted = "96429b2725761a09  meta-llama/Llama-2-7b-hf\n"
    assert run("hash", "a", a=text).stdout == wanted
    assert run("hash", "a", a=f"{text}---\n{text}").stdout == wanted * 2
    assert run("hash", "-", stdin=text).stdout == wanted


def test_a_reference_is_no_identity(run):
    graph = GRAPH.partition("        mode: auto")[0] + "        checkpointRef: warm\n"
    result = run("hash", "a", a=graph)
    assert (result.exit_code, result.stdout) == (errors.InputError.exit_code, "")
    assert "no identity in it" in result.stderr


def test_canonical_text_is_what_is_hashed(run):
    result = run("hash", "--canonical", "a", a=CHECKPOINT)
    text = result.stdout.removesuffix("\n")
    assert text == (
        '{"model":"meta-llama/Llama-2-7b-hf","backendFramework":"vllm",'
        '"tensorParallelSize":1,"pipelineParallelSize":1}'
    )
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "96429b2725761a09"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OTHER, "no identity in it"),
        ("", "no identity in it"),
        ("a: [", "not YAML"),
        (CHECKPOINT.replace("vllm}", "tgi}"), "warm: spec.identity.backendFramework: 'tgi' is not"),
        ("kind: DynamoCheckpoint", "unnamed: spec.identity: expected an object"),
        ("a: 2024-13-45", "not YAML: month must be in 1..12"),
        ("[" * 5000, "not YAML"),
        ("- model: m", "no identity in it"),
        ("model: m", "a.yaml: document 1.backendFramework: required"),
        ("a: 1\n---\nframework: vllm", "a.yaml: document 2.model: required"),
        ("model: m\nframework: vllm\nquant: a", "document 1.quant: unknown field"),
        (
            GRAPH.replace("dtype: bfloat16", "dtype: 16"),
            "checkpoint.identity.dtype: expected a string",
        ),
        (
            GRAPH.replace("model:", "models:"),
            "my-llm: spec.services.VllmWorker.checkpoint.identity",
        ),
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
    result = run(program, "--config", "/nonexistent/chrek.yaml", "--log-level", "loud")
    assert result.exit_code == 2
    assert "'debug', 'info', 'warning', 'error'" in result.stderr


@pytest.mark.parametrize("program", ["agent", "operator"])
@pytest.mark.parametrize(("option", "level"), [([], "WARNING"), (["--log-level=debug"], "DEBUG")])
def test_the_log_level_of_a_program(tmp_path, program, option, level):
    """As far as a program comes that is in no cluster."""
    path = tmp_path / "chrek.yaml"
    path.write_text(yaml.safe_dump({**PROGRAMS[program], "logLevel": "warning"}))
    code = (
        "import logging\nfrom chrek import cli\n"
        f"try:\n    cli.main({[program, '--config', str(path), *option]!r})\n"
        "finally:\n    print(logging.getLevelName(logging.getLogger().level))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == errors.ConfigError.exit_code, done.stderr
    assert done.stdout == f"{level}\n"


@pytest.mark.parametrize(
    "arguments",
    [["hash"], ["nonsense"], ["agent"], ["prune"], ["--nonsense"], ["checkpoint"]]
    + [["checkpoint", "deploy/x", option] for option in ("--backend=tgi", "--max-model-len=0")],
)
def test_wrong_usage(run, arguments):
    assert run(*arguments).exit_code == 2


def test_help_lists_every_command(run):
    text = run("--help").stdout
    assert all(f"\n  {name}" in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_line_and_command_say_the_same(run, name):
    listed = cli._COMMANDS[name]
    assert run(name, "--help").exit_code == 0
    shown = " ".join(run(name, "--help").stdout.split())
    assert listed.split(" in YAML")[0].removesuffix(".").split(" of ")[0] in shown


def test_the_installed_command(tmp_path):
    command = [sys.executable, "-c", "from chrek.cli import main; main()", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"chrek {chrek.__version__}\n"
