"""Releases as `chrek doctor` finds them."""

import pathlib

import pytest
import yaml

import chrek
from chrek import errors
from chrek.checks import report
from chrek.cli import reading, releases
from fakes import api_server, installed, release

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

NOTES = "\nNOTES:\nchrek is installed: it serves a, b.\n\nLook at it:\n  kubectl get pods\n"


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def find(api, namespace="team", name=None):
    return releases.installed(reading.Reader(release.connect(api), namespace), name)


def manifests(*objects):
    return "".join(f"---\n# Source: x.yaml\n{yaml.safe_dump(one)}" for one in objects)


def test_the_release_of_a_namespace(api):
    installed.add(api)
    installed.add(api, namespace="other")
    (found,) = find(api)
    assert (found.name, found.namespace) == ("chrek", "team")
    assert found.config == release.config()
    assert found.pod == installed.POD
    assert found.problem is None


def test_a_release_without_agents(api):
    installed.add(api, release.config(agentName=""), pod=None)
    assert find(api)[0].pod is None


def test_several_releases_and_one_of_them(api):
    installed.add(api, release_name="b")
    installed.add(api, release_name="a")
    assert [one.name for one in find(api)] == ["a", "b"]
    assert [one.name for one in find(api, name="b")] == ["b"]
    with pytest.raises(errors.InputError, match="team has no release c of chrek; there are: a, b"):
        find(api, name="c")


def test_other_config_maps_are_no_releases(api):
    body = installed.config_map()
    body["metadata"]["labels"]["app.kubernetes.io/component"] = "hooks"
    api.add(release.CONFIG_MAPS, body)
    with pytest.raises(errors.InputError, match=r"namespace team has no release of chrek \("):
        find(api)


def test_no_release_here_but_elsewhere(api):
    installed.add(api, namespace="b")
    installed.add(api, namespace="a", release_name="x")
    installed.add(api, namespace="a", release_name="y")
    with pytest.raises(errors.InputError, match=r"there are releases in: a, b \(") as caught:
        find(api)
    assert "-n" in caught.value.hint
    assert "helm template" in caught.value.hint


def test_who_may_not_look_elsewhere_is_told_of_this_namespace(api):
    installed.deny(api, "list", installed.MAPS, "configmaps")
    with pytest.raises(errors.InputError, match=r"namespace team has no release of chrek \("):
        find(api)
    api.refuse("GET", installed.MAPS, status=500, message="etcd is gone")
    with pytest.raises(errors.ApiError, match="etcd is gone"):
        find(api)


def test_who_may_not_look_here_is_told_which_right(api):
    installed.deny(api, "list", release.CONFIG_MAPS, "configmaps", namespace="team")
    with pytest.raises(
        errors.ApiError, match="you may not list configmaps in namespace team"
    ) as caught:
        find(api)
    assert caught.value.hint.endswith("kubectl auth can-i list configmaps -n team")
    assert caught.value.status == 403


def problem(found):
    assert found.config is None
    assert found.problem.status is report.Status.FAILED
    return f"{found.problem.detail} {found.problem.hint}"


def test_a_release_of_an_older_chart(api):
    installed.add(api, release=None)
    text = problem(find(api)[0])
    assert "ConfigMap team/chrek-config has no release.yaml" in text
    assert f"run helm upgrade chrek -n team with the chart of chrek {chrek.__version__}" in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"release": "a: ["}, "team/chrek-config: release.yaml: "),
        ({"release": "kind: ReleaseConfig"}, "release.yaml: Object missing required field"),
        ({"agent_pod": "[]"}, "team/chrek-config: agent-pod.yaml: not a pod"),
    ],
)
def test_settings_of_another_version(api, data, message):
    installed.add(api, **data)
    text = problem(find(api)[0])
    assert message in text
    assert f"is chrek {chrek.__version__}, this is {chrek.__version__}" in text
    assert "run helm upgrade chrek -n team" in text


def test_settings_with_a_field_of_a_newer_version(api):
    body = installed.config_map()
    body["data"]["release.yaml"] += "ofANewerVersion: 1\n"
    body["metadata"]["labels"]["app.kubernetes.io/version"] = "9.0.0"
    api.add(release.CONFIG_MAPS, body)
    text = problem(find(api)[0])
    assert "ofANewerVersion" in text
    assert "chrek 9.0.0" in text
    assert "or use the command of the release's version" in text


def test_manifests_as_helm_template_prints_them():
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {}}
    text = manifests(other, installed.config_map(), {"kind": "Service"})
    (found,) = releases.rendered(text, "standard input")
    assert (found.name, found.namespace) == ("chrek", "team")
    assert found.config == release.config()
    spec = {key: value for key, value in installed.POD["spec"].items() if key == "containers"}
    assert found.pod == {**installed.POD, "spec": spec}, "its account is not there yet"


def test_manifests_as_a_dry_run_prints_them():
    hook = installed.config_map()
    hook["metadata"]["labels"]["app.kubernetes.io/component"] = "hooks"
    text = (
        f"NAME: chrek\nLAST DEPLOYED: Sat Nov 28 23:00:00 2026\nSTATUS: pending\nHOOKS:\n"
        f"{manifests(hook)}MANIFEST:\n{manifests(installed.config_map())}"
        f"{manifests({'kind': 'Service'})}{NOTES}"
    )
    assert [one.name for one in releases.rendered(text, "f")] == ["chrek"]


def test_manifests_of_two_releases():
    text = manifests(installed.config_map(release_name="a"), installed.config_map(release_name="b"))
    assert [one.name for one in releases.rendered(text, "f")] == ["a", "b"]
    assert [one.name for one in releases.rendered(text, "f", "b")] == ["b"]
    with pytest.raises(errors.InputError, match="f has no release c of chrek; there are: a, b"):
        releases.rendered(text, "f", "c")


def test_manifests_of_a_release_without_agents():
    assert releases.rendered(manifests(installed.config_map(pod=None)), "f")[0].pod is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f: no ConfigMap of chrek with release.yaml"),
        (manifests({"kind": "ConfigMap", "data": {"release.yaml": ""}}), "no ConfigMap of chrek"),
        (manifests(installed.config_map(release=None)), "no ConfigMap of chrek"),
        ("kind: ConfigMap\nrelease.yaml: [", "f: not YAML"),
        ("kind: ConfigMap\nrelease.yaml: 2026-13-45", "f: not YAML: month must be in 1..12"),
        (f"kind: ConfigMap\nrelease.yaml: {'[' * 5000}", "f: not YAML"),
    ],
)
def test_other_files(text, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        releases.rendered(text, "f")
    assert caught.value.hint


def test_labels_are_those_of_the_chart():
    chart = pathlib.Path(__file__).resolve().parents[2] / "charts/chrek/templates"
    assert 'include "chrek.labels" (list . "config")' in (chart / "configmap.yaml").read_text()
    labels = (chart / "_labels.tpl").read_text()
    for label in (*releases.LABELS, releases.INSTANCE, releases.VERSION):
        assert f"\n{label}: " in labels
