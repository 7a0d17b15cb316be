"""Where everything lies: one folder for builds that last, and in it the cluster's own state.

$CHREK_CACHE/
├── bin/            what the Go modules build, and Prometheus, with one stamp per group of tools
├── helm-plugins/   helm-unittest, as Helm finds plugins
├── go/             Go's module and build caches
├── apt/            Debian packages, so that the second root file system needs no download
├── base/           the container base image's root file system, as a tar
├── node/           the root file system that all nodes share, read-only
├── share/          mounted at /share in every node; outlives the cluster
└── cluster/        what `down` removes: certificates, etcd, nodes, images, volumes
    └── log/        the daemons' logs, kept until the next `up` of a new cluster
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Cache:
    """The paths under one cache folder."""

    root: Path

    @classmethod
    def from_environment(cls) -> Cache:
        """The folder that CHREK_CACHE names, else chrek/ under the user's cache folder."""
        if chosen := os.environ.get("CHREK_CACHE"):
            return cls(Path(chosen).expanduser().resolve())
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return cls((Path(home).expanduser() / "chrek").resolve())

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def helm_plugins(self) -> Path:
        return self.root / "helm-plugins"

    @property
    def go(self) -> Path:
        return self.root / "go"

    @property
    def packages(self) -> Path:
        return self.root / "apt"

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def base_tar(self) -> Path:
        return self.base / "debian-trixie.tar"

    @property
    def node(self) -> Path:
        return self.root / "node"

    @property
    def node_root(self) -> Path:
        return self.node / "root"

    @property
    def share(self) -> Path:
        return self.root / "share"

    @property
    def lock(self) -> Path:
        return self.root / "cluster.lock"

    @property
    def cluster(self) -> Path:
        return self.root / "cluster"

    @property
    def log(self) -> Path:
        return self.cluster / "log"

    @property
    def build_log(self) -> Path:
        return self.root / "log"

    @property
    def pki(self) -> Path:
        return self.cluster / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.pki / "admin.kubeconfig"

    @property
    def run(self) -> Path:
        return self.cluster / "run"

    @property
    def nodes(self) -> Path:
        return self.cluster / "nodes"

    @property
    def images(self) -> Path:
        return self.cluster / "images"

    @property
    def volumes(self) -> Path:
        return self.cluster / "volumes"
