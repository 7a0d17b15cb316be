"""helm, chart-testing, helm-unittest and scripts/generate have nothing to say."""

import os
import pathlib
import subprocess
import sys

import pytest

from chart import rendered

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "chrek"


@pytest.mark.helm
@pytest.mark.chart
@pytest.mark.parametrize("path", rendered.VALUES, ids=lambda path: path.stem)
def test_helm_lint_strict(helm, path):
    done = helm.run("lint", "--strict", f"--values={path}", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.helm
@pytest.mark.chart
def test_ct_lint_with_every_values_file(helm, tool_path, values_files):
    """Lints Chart.yaml, renders each ci/*-values.yaml and runs the helm-unittest suites."""
    assert len(values_files) >= 8
    ct = pathlib.Path(tool_path("ct"))
    # yamllint and yamale stand beside this Python, helm beside ct.
    path = os.pathsep.join(
        [str(pathlib.Path(sys.executable).parent), str(ct.parent), os.environ["PATH"]]
    )
    done = subprocess.run(
        [ct, "lint", "--all"],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Test Suites:" in done.stdout


def test_every_template_has_a_suite():
    templates = CHART / "templates"
    rendering = {
        path.relative_to(templates).with_suffix("")
        for path in templates.rglob("*")
        if path.suffix in (".yaml", ".txt") and path.name != "_names.tpl"
    }
    suites = {
        pathlib.Path(str(path.relative_to(CHART / "tests")).removesuffix("_test.yaml"))
        for path in (CHART / "tests").rglob("*_test.yaml")
    }
    named = {pathlib.Path("notes"): pathlib.Path("NOTES")}
    assert rendering - {named.get(suite, suite) for suite in suites} == set()


def test_every_rule_has_a_test_of_its_refusal():
    """As many refusals in the suite as there are `fail` calls, at least."""
    rules = (CHART / "templates" / "validate.yaml").read_text().count("{{- fail ")
    tests = (CHART / "tests" / "validate_test.yaml").read_text().count("failedTemplate")
    assert rules >= 8
    assert tests >= rules


def test_generated_files_are_fresh():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_generate_sees_a_stale_file(tmp_path):
    """The freshness test can fail."""
    for name in ("charts", "docs", "schemas", "scripts", "src"):
        subprocess.run(["cp", "-r", ROOT / name, tmp_path / name], check=True)
    (tmp_path / "charts/chrek/values.yaml").write_text("image: {}\n")
    (tmp_path / "charts/chrek/files/crds/stray.yaml").write_text("")
    command = [sys.executable, tmp_path / "scripts" / "generate"]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "stale: charts/chrek/values.yaml",
        "stale: charts/chrek/files/crds/stray.yaml",
    ]
    subprocess.run(command, capture_output=True, check=True)
    assert subprocess.run([*command, "--check"], check=False).returncode == 0
    assert not (tmp_path / "charts/chrek/files/crds/stray.yaml").exists()
