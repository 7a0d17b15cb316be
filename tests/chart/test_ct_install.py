"""chart-testing installs the chart with every file of ci/, and runs `helm test` on each.

ct installs all files of a chart's ci/ in one namespace, where each release would want the claim
that the last one left. So each file is alone in a copy of the chart, in its own namespace, beside
what its values name. Two of them are in CI, the others in `scripts/test --all`. Two are installed
at once: most of that is waiting.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
from concurrent import futures

import pytest

from chart import live as lives
from chart import rendered
from chrek.operator import certificates
from e2e import servers
from showcase import cluster

ROOT = pathlib.Path(__file__).resolve().parents[2]
IN_CI = ("default-values", "short-form-values")
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "checkpoint-storage"},
    "spec": {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}},
    },
}

pytestmark = [pytest.mark.cluster, pytest.mark.helm]


def cases():
    for path in rendered.CI:
        marks = [] if path.stem in IN_CI else [pytest.mark.heavy]
        yield pytest.param(path, marks=marks, id=path.stem.removesuffix("-values"))


def apply(live, namespace, *objects):
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    live.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=text)


def authority(host):
    """A certificate for a host, and the bundle that trusts it."""
    now = datetime.datetime.now(datetime.UTC)
    bundle = certificates.renewed(None, [host], now=now)
    assert bundle is not None
    tls = {"tls.crt": bundle.certificate.decode(), "tls.key": bundle.key.decode()}
    return servers.secret("tls", tls), bundle.authorities.decode()


def trusted(name, text):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"ca.crt": text},
    }


def load_servers():
    if cluster.foreign_kubeconfig():
        pytest.skip("KUBECONFIG is set: nodes get the servers' images from scripts/cluster")
    servers.load(cluster.Cluster(kubeconfig=pathlib.Path(), own=True, proxy_port=0))


def start(live, namespace, objects):
    apply(live, namespace, *objects)
    (pod,) = [item["metadata"]["name"] for item in objects if item["kind"] == "Pod"]
    wait = ["--for=condition=Ready", "--timeout=60s", f"--namespace={namespace}"]
    live.kubectl("wait", f"pod/{pod}", *wait)


@contextlib.contextmanager
def bucket(live, namespace):
    """minio.storage.svc:9000, with a certificate that minio-ca trusts."""
    load_servers()
    with lives.namespace(live, "storage") as storage:
        tls, bundle = authority("minio.storage.svc")
        made = [tls, *servers.s3("checkpoints", port=9000, tls=True)]
        (service,) = [item for item in made if item["kind"] == "Service"]
        service["metadata"]["name"] = "minio"
        start(live, storage, made)
        (credentials,) = [i for i in made if i["metadata"]["name"] == "s3-creds"]
        key = servers.secret("chrek-key", {"key": base64.b64encode(os.urandom(32)).decode()})
        apply(live, namespace, credentials, key, trusted("minio-ca", bundle))
        yield []


@contextlib.contextmanager
def registry(live, namespace):
    """myregistry.io, as pods of this namespace resolve it: pod myregistry of the service io."""
    load_servers()
    tls, bundle = authority("myregistry.io")
    made = [tls, *servers.registry("myregistry.io", port=443, tls=True)]
    for item in made:
        if item["kind"] == "Pod":
            item["spec"] |= {"hostname": "myregistry", "subdomain": "io"}
        if item["kind"] == "Service":
            item["metadata"]["name"] = "io"
            item["spec"]["clusterIP"] = "None"
    start(live, namespace, made)
    apply(live, namespace, trusted("registry-ca", bundle))
    # No authority of the world signs for it here: the one thing that the guide's block lacks.
    yield ["checkpoint.storage.oci.caBundle=registry-ca"]


@contextlib.contextmanager
def claim(live, namespace):
    apply(live, namespace, CLAIM)
    yield []


@contextlib.contextmanager
def nothing(live, namespace):
    yield []


NEEDED = {"short-form-values": claim, "s3-values": bucket, "oci-values": registry}


AT_ONCE = 2


@pytest.fixture(scope="module")
def installations(live, tool_path, tmp_path_factory, request):
    """What ct said of each file, and what was left of its release."""
    wanted = [
        item.callspec.params["path"]
        for item in request.session.items
        if item.path.name == "test_ct_install.py"
    ]
    with futures.ThreadPoolExecutor(AT_ONCE) as pool:
        begun = {
            path: pool.submit(install, live, tool_path, tmp_path_factory.mktemp("ct"), path)
            for path in wanted
        }
        try:
            yield begun
        finally:
            pool.shutdown(cancel_futures=True)


def install(live, tool_path, folder, path):
    chart = folder / "charts" / "chrek"
    shutil.copytree(rendered.CHART, chart, ignore=shutil.ignore_patterns("ci"))
    (chart / "ci").mkdir()
    shutil.copy(path, chart / "ci")
    shutil.copy(ROOT / "ct.yaml", folder)
    ct = pathlib.Path(tool_path("ct"))
    programs = [str(pathlib.Path(sys.executable).parent), str(ct.parent), os.environ["PATH"]]
    with (
        lives.namespace(live, f"chart-ct-{path.stem.removesuffix('-values')}") as namespace,
        NEEDED.get(path.stem, nothing)(live, namespace) as settings,
    ):
        values = [f"--helm-extra-set-args=--set={','.join(settings)}"] if settings else []
        done = subprocess.run(
            [ct, "install", "--all", f"--namespace={namespace}", *values],
            cwd=folder,
            env={**live.environment, "PATH": os.pathsep.join(programs)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, live.get("all", f"--namespace={namespace}")["items"]


# Which waits for its turn, too.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", list(cases()))
def test_ct_install(installations, path):
    done, documents = installations[path].result()
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "All charts installed successfully" in said
    left = [d for d in documents if "helm.sh/chart" in d["metadata"].get("labels", {})]
    # Pods may still be ending, but nothing would make new ones.
    assert [rendered.name(d) for d in left if d["kind"] != "Pod"] == []
    has_test = path.stem not in ("bare-values", "operator-off-values", "switched-off-values")
    assert ("Phase:          Succeeded" in said) == has_test
