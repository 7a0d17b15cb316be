"""Helm 4 makes of the chart what Helm 3 makes; test_cluster installs it with both."""

import pytest

from chart import rendered

pytestmark = [pytest.mark.helm, pytest.mark.chart]


def of(helm, path, **flags):
    """Documents by what names them: the order is each Helm's own."""
    documents = helm.template(f"--values={path}", **flags)
    found = {(d["kind"], d["metadata"].get("namespace"), rendered.name(d)): d for d in documents}
    assert len(found) == len(documents)
    return found


def test_they_are_two(helm, helm4):
    """Else the comparisons below would say nothing."""
    versions = [one.run("version", "--template={{.Version}}").stdout for one in (helm, helm4)]
    assert [version[:3] for version in versions] == ["v3.", "v4."]


@pytest.mark.parametrize("path", rendered.VALUES, ids=lambda path: path.stem)
def test_both_render_the_same(helm, helm4, path):
    assert of(helm4, path) == of(helm, path)
    # Without what a newer cluster has, the chart renders something else.
    assert of(helm4, path, apis=()) == of(helm, path, apis=())


@pytest.mark.parametrize("path", rendered.VALUES, ids=lambda path: path.stem)
def test_lint_strict(helm4, path):
    done = helm4.run("lint", "--strict", f"--values={path}", rendered.CHART)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_refuse_with_the_same_words(helm, helm4):
    for flags in (["--set=agent.logLvl=debug"], ["--set=fullnameOverride=a", "--set=surplus=1"]):
        said = [
            {line.strip() for line in one.refusal(*flags).splitlines() if line.startswith("- at")}
            for one in (helm, helm4)
        ]
        assert said[0] == said[1] != set()
