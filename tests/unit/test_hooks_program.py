import msgspec
import pytest
import yaml
from click import testing

from chrek import errors
from chrek.checks import report
from chrek.hooks import program
from fakes import release


@pytest.fixture
def termination_log(tmp_path, monkeypatch):
    path = tmp_path / "termination-log"
    monkeypatch.setattr(program, "TERMINATION_LOG", path)
    return path


@pytest.mark.parametrize(
    ("error", "code"),
    [(errors.ApiError("no", hint="yes"), 30), (errors.ConfigError("no", hint="yes"), 5)],
)
def test_an_error_is_the_last_line_and_the_exit_code(termination_log, capsys, error, code):
    def fail():
        raise error

    with pytest.raises(SystemExit) as caught:
        program.with_errors("pre-install", fail)
    assert caught.value.code == code
    assert capsys.readouterr().out == "pre-install: no (yes)\n"
    assert termination_log.read_text() == "pre-install: no (yes)"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        program.with_errors("pre-install", lambda: 1 // 0)


def test_the_termination_message_is_cut(termination_log):
    program.conclude("x" * 5000)
    assert termination_log.stat().st_size == 4096


def test_no_termination_log_is_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "TERMINATION_LOG", tmp_path / "none" / "log")
    program.conclude("done")
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize(
    ("outcome", "code", "last"),
    [
        (report.ok("a", "b"), 0, "title: all 1 checks passed"),
        (
            report.failed("a", "b", "c"),
            program.FAILED_CHECKS,
            "title: a failed: b. To do: c. Then run x chrek team.",
        ),
    ],
)
def test_run(tmp_path, monkeypatch, termination_log, outcome, code, last):
    raw = msgspec.to_builtins(release.config())
    (tmp_path / "release.yaml").write_text(yaml.safe_dump(raw))
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "contexts: [{name: a, context: {cluster: a, user: a}}]\n"
        "clusters: [{name: a, cluster: {server: 'http://192.0.2.2:1'}}]\n"
        "users: [{name: a, user: {}}]\n"
    )
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    command = program.command(
        lambda _: [outcome], title="title", again="run x {release} {namespace}"
    )
    result = testing.CliRunner().invoke(command, ["--directory", str(tmp_path)])
    assert result.exit_code == code
    assert result.output.splitlines()[-1] == last
    assert termination_log.read_text() == last
