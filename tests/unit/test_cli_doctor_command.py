"""`chrek doctor` as a person meets it: what it prints, and its exit codes."""

import json
import re
import subprocess
import sys

import jsonschema
import pytest
import yaml
from click import testing

from chrek import cli, errors
from chrek.cli import doctor_command, records
from fakes import api_server, installed, release

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

FAILED = 3


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture
def run(api, tmp_path, monkeypatch):
    """Runs `chrek doctor ...` as a user of namespace team."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))

    def call(*arguments, stdin=None):
        return testing.CliRunner().invoke(cli.main, ["doctor", *arguments], input=stdin)

    return call


def manifests(config=None, **changes):
    return f"---\n{yaml.safe_dump(installed.config_map(config, **changes))}"


def test_a_release_that_works(api, run):
    installed.healthy(api)
    result = run()
    assert result.exit_code == 0, result.output
    blocks = [block.splitlines() for block in result.stdout.split("\n\n")]
    assert blocks[0] == ["release chrek in namespace team"]
    headings = [block[0] for block in blocks[1:-1]]
    assert headings == ["cluster", "release", "node n1", "node n2"]
    count = sum(len(block) - 1 for block in blocks[1:-1])
    assert blocks[-1] == [f"doctor: all {count} checks passed"]
    assert "  ok    kubernetes-version  v1.34.4" in blocks[1]
    assert "  ok    store-write  written" in blocks[3]
    assert result.stderr == ""


def test_a_check_that_failed(api, run):
    installed.healthy(api)
    del api.objects[f"{release.CLASSES}/shared"]
    result = run()
    assert result.exit_code == FAILED == errors.ChrekError.exit_code
    lines = result.stdout.splitlines()
    (line,) = [number for number, text in enumerate(lines) if text.startswith("  fail")]
    assert "storage" in lines[line]
    assert "no default StorageClass" in lines[line]
    assert re.match(r" +-> set storage.pvc.storageClassName", lines[line + 1])
    assert lines[-1].startswith("doctor: storage failed: there is no default StorageClass")
    assert lines[-1].endswith("Then run chrek doctor again.")


def test_a_missing_right_is_a_warning(api, run):
    installed.healthy(api)
    installed.deny(api, "list", release.CLASSES, "storageclasses", group="storage.k8s.io")
    result = run()
    assert result.exit_code == 0
    assert "not allowed to look: the right to list storageclasses.storage.k8s.io" in result.stdout
    assert result.stdout.endswith("1 of them could not be made for want of rights\n")


def test_json(api, run):
    installed.healthy(api)
    late = ("clock", "warn", "3 s ahead", "run NTP")
    installed.answers(api, "n1", late)
    del api.objects[f"{release.CLASSES}/shared"]
    result = run("-o", "json")
    assert result.exit_code == FAILED
    document = json.loads(result.stdout)
    jsonschema.validate(document, records.schema("doctor"))
    (found,) = document["releases"]
    assert {key: found[key] for key in found if key != "checks"} == {
        "release": "chrek",
        "namespace": "team",
        "failed": 1,
        "warnings": 1,
    }
    keys = ("group", "name", "status", "detail", "hint")
    assert all(tuple(check) == keys for check in found["checks"])
    assert dict(zip(keys, ("node n1", *late), strict=True)) | {"detail": "3 s ahead"} in [
        {**check} for check in found["checks"]
    ]
    assert {check["status"] for check in found["checks"]} == {"ok", "warn", "fail"}
    assert yaml.safe_load(run("-o", "yaml").stdout)["releases"][0]["failed"] == 1
    names = run("-o", "name")
    assert (names.exit_code, names.stdout) == (FAILED, "cluster/storage\n")


def test_several_releases(api, run):
    installed.healthy(api)
    installed.add(api, release_name="old", release=None)
    result = run()
    assert result.exit_code == FAILED
    assert "release chrek in namespace team\n" in result.stdout
    assert "\nrelease old in namespace team\n" in result.stdout
    assert result.stdout.count("\ndoctor: ") == 2
    assert run("--release", "chrek").exit_code == 0
    only = run("--release=old", "-ojson")
    assert json.loads(only.stdout)["releases"][0]["checks"][0]["name"] == "settings"
    assert only.exit_code == FAILED


def test_json_of_several_releases_is_one_document(api, run):
    installed.healthy(api)
    installed.add(api, release_name="z")
    found = json.loads(run("-o", "json").stdout)["releases"]
    assert [one["release"] for one in found] == ["chrek", "z"]


def test_another_namespace(api, run):
    installed.healthy(api)
    for option in ("-n", "--namespace"):
        result = run(option, "other")
        assert result.exit_code == errors.InputError.exit_code
        assert result.stderr.startswith("error: namespace other has no release of chrek; there ")
        assert "releases in: team\n  hint: name its namespace with -n" in result.stderr


def test_another_context(api, run, tmp_path):
    installed.healthy(api)
    path = tmp_path / "config"
    config = json.loads(path.read_text())
    config["contexts"][0]["context"]["namespace"] = "nothing-here"
    second = {"name": "work", "context": {"cluster": "c", "user": "u", "namespace": "team"}}
    config["contexts"].append(second)
    path.write_text(json.dumps(config))
    assert run().exit_code == errors.InputError.exit_code
    assert run("--context", "work").exit_code == 0
    result = run("--context", "none")
    assert result.exit_code == errors.ConfigError.exit_code
    assert "none" in result.stderr


def test_a_namespace_without_a_release(run):
    result = run()
    assert result.exit_code == errors.InputError.exit_code
    assert result.stdout == ""
    assert "error: namespace team has no release of chrek\n" in result.stderr
    assert "helm template RELEASE charts/chrek -n team" in result.stderr


def test_no_answer(api, run):
    api.__exit__()
    result = run()
    assert result.exit_code == errors.ApiError.exit_code
    assert result.stdout == ""
    assert re.fullmatch(
        rf"error: .*no answer from {api.url}.*\n  hint: .*KUBECONFIG and --context.*\n",
        result.stderr,
    )


def test_no_answer_any_more(api, run, monkeypatch):
    installed.healthy(api)
    monkeypatch.setattr(api, "texts", {})
    api.refuse("GET", "/version", status=401, message="Unauthorized")
    result = run()
    assert result.exit_code == errors.ApiError.exit_code
    assert "Unauthorized (401)\n  hint: log in again" in result.stderr


def test_no_right_at_all(api, run):
    installed.deny(api, "list", release.CONFIG_MAPS, "configmaps", namespace="team")
    result = run()
    assert result.exit_code == errors.ApiError.exit_code
    assert result.stderr.startswith("error: you may not list configmaps in namespace team\n")
    assert result.stderr.endswith("kubectl auth can-i list configmaps -n team\n")


def test_without_a_kubeconfig(run, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = run()
    assert result.exit_code == errors.ConfigError.exit_code
    assert "set KUBECONFIG" in result.stderr


def test_manifests_on_standard_input(api, run):
    release.healthy(api)
    result = run("--manifests", "-", stdin=manifests())
    assert result.exit_code == 0, result.output
    blocks = result.stdout.split("\n\n")
    assert blocks[0] == "release chrek in namespace team"
    assert blocks[1].startswith("cluster\n")
    assert blocks[2].startswith("doctor: all ")


def test_manifests_in_a_file(api, run, tmp_path):
    release.healthy(api)
    path = tmp_path / "rendered.yaml"
    wanted = release.config(claim={"storageClassName": "fast"})
    path.write_text(manifests(wanted))
    result = run("--manifests", str(path), "-o", "json")
    assert result.exit_code == FAILED
    (found,) = json.loads(result.stdout)["releases"]
    (wrong,) = [one for one in found["checks"] if one["status"] == "fail"]
    assert (wrong["group"], wrong["name"]) == ("cluster", "storage")
    assert "StorageClass 'fast': not found; there are: shared" in wrong["detail"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("kind: Service", "no ConfigMap of chrek with release.yaml"),
        ("kind: ConfigMap\nrelease.yaml: [", "not YAML"),
    ],
)
def test_manifests_that_cannot_be_used(api, run, tmp_path, text, message):
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_text(text)
    result = run("--manifests", str(path))
    assert result.exit_code == errors.InputError.exit_code
    assert message in result.stderr
    assert "\n  hint: " in result.stderr
    assert not api.requests


def test_nothing_on_standard_input(run):
    result = run("--manifests", "-", stdin="")
    assert result.exit_code == errors.InputError.exit_code
    assert result.stderr.startswith("error: standard input: no ConfigMap of chrek")


@pytest.mark.parametrize("arguments", [["x"], ["-o", "wide"], ["--manifests", "-", "-n", "a"]])
def test_wrong_usage(run, arguments):
    assert run(*arguments).exit_code == 2


def test_help_has_the_exit_codes_and_examples(run):
    text = run("--help").stdout
    codes = {int(code) for code in re.findall(r"^    (\d+) +\w", text, re.MULTILINE)}
    used = (errors.ChrekError, errors.InputError, errors.ConfigError, errors.ApiError)
    assert codes == {0, 2, *(one.exit_code for one in used)}
    assert doctor_command.FAILED_CHECKS in codes
    assert "$ chrek doctor -n my-team\n" in text
    example = "-n my-team -f values.yaml | chrek doctor --manifests -\n"
    assert f"$ helm template chrek charts/chrek {example}" in text


def loaded(*arguments):
    code = (
        "import sys, chrek.cli\n"
        f"try:\n    chrek.cli.main({['doctor', *arguments]})\n"
        "except SystemExit:\n    pass\n"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_and_wrong_usage_need_no_kubernetes_client():
    for arguments in (["--help"], ["--nonsense"]):
        assert loaded(*arguments) & {"kubernetes", "urllib3", "aiohttp"} == set()


def test_the_installed_command(api, tmp_path):
    """As `kubectl chrek doctor` calls it: a program with arguments and an environment."""
    installed.healthy(api)
    done = subprocess.run(
        [sys.executable, "-c", "from chrek.cli import main; main()", "doctor", "-n", "team"],
        env={"KUBECONFIG": str(api.kubeconfig(tmp_path, "default")), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("release chrek in namespace team\n")
