"""Tools and rendered manifests for the tests of the chart."""

import functools
import os
import pathlib
import shutil
import subprocess

import pytest
import yaml

from chart import live as lives
from chart.promtool import Promtool

CHART = pathlib.Path(__file__).resolve().parents[2] / "charts" / "chrek"
POLICY_API = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"


def tool(name, cache):
    """The path of a tool that `scripts/cluster tools` builds, or of one on PATH."""
    found = shutil.which(name, path=f"{cache / 'bin'}{os.pathsep}{os.environ['PATH']}")
    if not found:
        pytest.skip(f"no {name}: run scripts/cluster tools")
    return found


class Helm:
    """Renders the chart."""

    def __init__(self, program):
        self.program = program

    def run(self, *args, **kwargs):
        return subprocess.run(
            [self.program, *args], capture_output=True, text=True, check=False, **kwargs
        )

    def template(self, *args, release="chrek", namespace="my-team", apis=(POLICY_API,)):
        """The documents of a release, hooks and tests included."""
        flags = [f"--api-versions={api}" for api in apis]
        done = self.run("template", release, CHART, f"--namespace={namespace}", *flags, *args)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    def refusal(self, *args):
        """What helm says against these values."""
        done = self.run("template", "chrek", CHART, *args)
        assert done.returncode != 0, f"{args} were accepted"
        return done.stderr


@pytest.fixture(scope="session")
def helm(cache):
    return Helm(tool("helm", cache))


@pytest.fixture(scope="session")
def helm4(cache):
    return Helm(tool("helm4", cache))


@pytest.fixture(scope="session")
def tool_path(cache):
    return functools.partial(tool, cache=cache)


@pytest.fixture
def promtool(cache, tmp_path):
    found = shutil.which("promtool", path=f"{cache / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return Promtool(found or pytest.skip("no promtool: run scripts/test"), tmp_path)


@pytest.fixture(scope="session")
def live(cache, tool_path):
    """The cluster of scripts/cluster, or that of KUBECONFIG, with the chart's CRDs."""
    path = pathlib.Path(os.environ.get("KUBECONFIG") or cache / "cluster/pki/admin.kubeconfig")
    found = lives.Live(tool_path, path)
    if found.kubectl("version", check=False).returncode != 0:
        pytest.skip("no cluster: run scripts/cluster up")
    found.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={lives.CRDS}")
    return found


@pytest.fixture(scope="session")
def values_files():
    """Those of ci/: each can be installed, and `ct install` does."""
    return sorted((CHART / "ci").glob("*-values.yaml"))
