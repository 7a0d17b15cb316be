"""The programs built from pinned Go modules, each group of them once.

A group is a folder of scripts/tools with go.mod and go.sum. Its stamp is the hash of
those files and the build flags; a group whose stamp is current costs nothing.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import shlex
from pathlib import Path

from devcluster import cache, commands, prerequisites, steps

SOURCES = Path(__file__).resolve().parent.parent / "tools"

KUBERNETES = "1.34.4"
HELM = "3.22.0"
HELM_4 = "4.3.2"
HELM_UNITTEST = "1.1.2"
CHART_TESTING = "3.14.0"
KUBECONFORM = "0.8.0"
VERSITYGW = "1.8.0"
# The Kubernetes version whose API Helm's module set is built with.
HELM_KUBERNETES_MINOR = "37"

_COMPONENT = "k8s.io/component-base/version"
_HELM = "helm.sh/helm/v3"
_HELM_4 = "helm.sh/helm/v4"


@dataclasses.dataclass(frozen=True)
class Group:
    """Programs that are built together.

    Args:
        name: the group's own name, which its stamp bears.
        folder: its folder under scripts/tools.
        packages: what to build, as Go names it; the last element is the program's name.
        variables: what the linker sets.
        install: the name in bin/ of a program that gets another one than its package's.
    """

    name: str
    folder: str
    packages: tuple[str, ...]
    variables: dict[str, str] = dataclasses.field(default_factory=dict)
    install: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def linker_flags(self) -> str:
        return " ".join(["-s -w", *(f"-X {key}={value}" for key, value in self.variables.items())])

    def programs(self) -> list[str]:
        """The names of its programs in bin/."""
        names = [package.rpartition("/")[2] for package in self.packages]
        return [self.install.get(name, name) for name in names]

    def digest(self) -> str:
        """The hash of everything that decides what is built."""
        hasher = hashlib.sha256()
        for path in sorted((SOURCES / self.folder).iterdir()):
            if path.suffix in (".mod", ".sum", ".go"):
                hasher.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
        hasher.update(
            repr((self.packages, self.linker_flags, sorted(self.install.items()))).encode()
        )
        return hasher.hexdigest()


_KUBERNETES_VERSION = {
    f"{_COMPONENT}.gitVersion": f"v{KUBERNETES}",
    f"{_COMPONENT}.gitMajor": "1",
    f"{_COMPONENT}.gitMinor": KUBERNETES.split(".")[1],
}

KUBECTL = Group("kubectl", "kubernetes", ("k8s.io/kubernetes/cmd/kubectl",), _KUBERNETES_VERSION)

COMPONENTS = Group(
    "kubernetes",
    "kubernetes",
    (
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        "k8s.io/kubernetes/cmd/kubelet",
        "k8s.io/kubernetes/cmd/kube-proxy",
    ),
    _KUBERNETES_VERSION,
)

COREDNS = Group("coredns", "coredns", ("chrek/tools/coredns",))
PAUSE = Group("pause", "pause", ("chrek/tools/pause",))

CHARTS = Group(
    "helm",
    "helm",
    (
        "helm.sh/helm/v3/cmd/helm",
        "github.com/helm-unittest/helm-unittest/cmd/helm-unittest",
        "github.com/helm/chart-testing/v3/ct",
        "github.com/yannh/kubeconform/cmd/kubeconform",
    ),
    {
        f"{_HELM}/internal/version.version": f"v{HELM}",
        f"{_HELM}/pkg/lint/rules.k8sVersionMajor": "1",
        f"{_HELM}/pkg/lint/rules.k8sVersionMinor": HELM_KUBERNETES_MINOR,
        f"{_HELM}/pkg/chartutil.k8sVersionMajor": "1",
        f"{_HELM}/pkg/chartutil.k8sVersionMinor": HELM_KUBERNETES_MINOR,
        "github.com/helm/chart-testing/v3/ct/cmd.Version": f"v{CHART_TESTING}",
        "main.version": f"v{KUBECONFORM}",
    },
    # bin/helm is a script that shows Helm where its plugin is.
    {"helm": "helm-without-plugins"},
)

# In the module set of Helm 3: what the two have in common is compiled once.
HELM4 = Group(
    "helm4",
    "helm",
    (f"{_HELM_4}/cmd/helm",),
    {f"{_HELM_4}/internal/version.version": f"v{HELM_4}"},
    {"helm": "helm4"},
)

S3_SERVER = Group(
    "versitygw",
    "versitygw",
    ("github.com/versity/versitygw/cmd/versitygw",),
    {"main.Version": f"v{VERSITYGW}"},
)

FOR_CHARTS = (CHARTS, HELM4, KUBECTL)
FOR_CLUSTER = (KUBECTL, COMPONENTS, COREDNS, PAUSE)
FOR_STORES = (S3_SERVER,)


def ensure(where: cache.Cache, groups: tuple[Group, ...]) -> None:
    """Build what is not there yet, and place Helm's plugin."""
    stale = [group for group in groups if not _current(where, group)]
    if stale:
        prerequisites.ensure(prerequisites.FOR_TOOLS)
    for group in stale:
        with steps.step(f"Build {', '.join(group.programs())}"):
            _build(where, group)


def s3_server(where: cache.Cache) -> Path:
    """The S3 server of the tests, versitygw, built if it is not there yet.

    Whoever comes while another builds it waits.
    """
    where.root.mkdir(parents=True, exist_ok=True)
    with (where.root / "stores.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ensure(where, FOR_STORES)
    return where.bin / "versitygw"


def _current(where: cache.Cache, group: Group) -> bool:
    try:
        stamp = _stamp(where, group).read_text()
    except OSError:
        return False
    present = all((where.bin / program).exists() for program in group.programs())
    return present and stamp == group.digest()


def _stamp(where: cache.Cache, group: Group) -> Path:
    return where.bin / ".stamps" / group.name


def _build(where: cache.Cache, group: Group) -> None:
    staging = where.bin / ".build" / group.name
    staging.mkdir(parents=True, exist_ok=True)
    commands.run(
        ["go", "install", "-ldflags", group.linker_flags, *group.packages],
        cwd=SOURCES / group.folder,
        env={
            "CGO_ENABLED": "0",
            "GOFLAGS": "-trimpath -buildvcs=false -modcacherw",
            "GOBIN": os.fspath(staging),
            "GOCACHE": os.fspath(where.go / "build"),
            "GOMODCACHE": os.fspath(where.go / "mod"),
            "GOWORK": "off",
        },
        log=where.build_log / f"build-{group.name}.log",
    )
    for package in group.packages:
        name = package.rpartition("/")[2]
        (staging / name).replace(where.bin / group.install.get(name, name))
    staging.rmdir()
    if group is CHARTS:
        _place_helm(where)
    stamp = _stamp(where, group)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(group.digest())


def _place_helm(where: cache.Cache) -> None:
    plugin = where.helm_plugins / "helm-unittest"
    plugin.mkdir(parents=True, exist_ok=True)
    (plugin / "plugin.yaml").write_text(
        f'name: "unittest"\n'
        f'version: "{HELM_UNITTEST}"\n'
        f'usage: "run the unit tests of a chart"\n'
        f'description: "Unit tests of charts, written in YAML"\n'
        f"ignoreFlags: false\n"
        f'command: "$HELM_PLUGIN_DIR/untt"\n'
    )
    program = plugin / "untt"
    program.unlink(missing_ok=True)
    program.symlink_to(where.bin / "helm-unittest")
    script = where.bin / "helm"
    plugins = shlex.quote(os.fspath(where.helm_plugins))
    helm = shlex.quote(os.fspath(where.bin / "helm-without-plugins"))
    script.unlink(missing_ok=True)
    script.write_text(
        f'#!/bin/sh\nHELM_PLUGINS="${{HELM_PLUGINS:-{plugins}}}"\nexport HELM_PLUGINS\n'
        f'exec {helm} "$@"\n'
    )
    script.chmod(0o755)
