"""Everything before the first pod: cluster, images, chart."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from showcase import cluster, commands, errors

SCRIPTS = commands.ROOT / "scripts"
CHART = commands.ROOT / "charts" / "chrek"
RELEASE = "chrek"
NAMESPACE = "my-team"
VERSION = "0.2.0"
REGISTRY = "CHREK_IMAGE_REGISTRY"
"""Environment variable: where a cluster of the user's pulls the images from."""


def image(name: str) -> str:
    """The reference under which nodes find one of our images."""
    registry = os.environ.get(REGISTRY, "").rstrip("/")
    return f"{registry}/{name}:{VERSION}" if registry else f"{name}:{VERSION}"


def archive(name: str) -> Path:
    return commands.cache() / "images" / f"{name}.tar"


@contextlib.contextmanager
def prepared() -> Iterator[cluster.Cluster]:
    """A running cluster whose nodes have the images.

    With KUBECONFIG set that is the user's cluster: it is taken as it is, and its nodes must be
    able to pull chrek, chrek-init and llama (from CHREK_IMAGE_REGISTRY if that is set).
    Otherwise scripts/cluster starts one here and the images are built and loaded.
    """
    foreign = cluster.foreign_kubeconfig()
    if foreign:
        images = ", ".join(image(name) for name in ("chrek", "chrek-init", "llama"))
        commands.say(f"using the cluster of {foreign}; its nodes must have or pull {images}")
        with cluster.connect(foreign, own=False) as live:
            yield live
        return
    _up()
    commands.say("images: scripts/build images example")
    commands.stream([SCRIPTS / "build", "images", "example"])
    for name in ("chrek", "chrek-init", "llama"):
        commands.stream([SCRIPTS / "cluster", "load", archive(name)])
    with cluster.connect(_own_kubeconfig(), own=True) as live:
        yield live


@contextlib.contextmanager
def running() -> Iterator[cluster.Cluster]:
    """The cluster that scripts/cluster starts here, whatever images its nodes have.

    Raises:
        ShowError: KUBECONFIG names another one, whose API server may not reach this machine.
    """
    foreign = cluster.foreign_kubeconfig()
    if not foreign:
        _up()
    own = _own_kubeconfig()
    if foreign and foreign != own:
        raise errors.ShowError(
            f"KUBECONFIG names {foreign}, and this needs the cluster of scripts/cluster",
            hint="unset KUBECONFIG",
        )
    with cluster.connect(own, own=True) as live:
        yield live


def _up() -> None:
    commands.say("cluster and tools: scripts/cluster up")
    commands.stream([SCRIPTS / "cluster", "up"])


def _own_kubeconfig() -> Path:
    shown = commands.run([SCRIPTS / "cluster", "kubeconfig"]).stdout.strip()
    return Path(shown.splitlines()[-1]).resolve()


def chart_images() -> list[str]:
    """Options for helm that name our images where the defaults do not."""
    if not os.environ.get(REGISTRY):
        return []
    registry = os.environ[REGISTRY].rstrip("/")
    return [
        f"--set=image.repository={registry}/chrek",
        f"--set=initImage.repository={registry}/chrek-init",
    ]


def pod_stamps(live: cluster.Cluster) -> list[str]:
    """Options for helm that restart our pods when the image was built again: its tag stays."""
    stamp = archive("chrek").with_suffix(".inputs")
    if not live.own or not stamp.exists():
        return []
    note = json.dumps({"chrek.test/image": stamp.read_text().strip()[:16]})
    return [f"--set-json={part}.podAnnotations={note}" for part in ("agent", "dynamo-operator")]


def install(
    live: cluster.Cluster,
    *,
    namespace: str = NAMESPACE,
    release: str = RELEASE,
    values: Mapping[str, str] | None = None,
) -> None:
    """Install the chart, or upgrade what is there; returns when agents and operator are ready.

    `values` is what --set-json gets, such as {"storage.pvc.size": '"20Gi"'}.
    """
    options = [f"--set-json={key}={value}" for key, value in (values or {}).items()]
    live.helm(
        "upgrade",
        "--install",
        release,
        str(CHART),
        f"--namespace={namespace}",
        "--create-namespace",
        "--wait",
        "--timeout=5m",
        *chart_images(),
        *pod_stamps(live),
        *options,
    )
