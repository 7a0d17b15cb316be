"""The processes of the host: etcd, the API server and its companions, DNS, the registry."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from devcluster import addresses, api, cache, certificates, errors, processes, steps

ETCD = "etcd"
API_SERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
SCHEDULER = "kube-scheduler"
DNS = "coredns"
REGISTRY = "registry"
PROVISIONER = "provisioner"

ALL = [ETCD, API_SERVER, CONTROLLER_MANAGER, SCHEDULER, DNS, REGISTRY, PROVISIONER]

READY_SECONDS = 60.0


def start_api(where: cache.Cache, records: processes.Records) -> None:
    """Start etcd and the API server without waiting for them."""
    for name in (ETCD, API_SERVER):
        _start(where, records, name)


def wait_for_api(where: cache.Cache, records: processes.Records) -> api.Client:
    """Wait until the API server is ready, and return a client of it."""
    client = api.Client(where.pki, certificates.ADMIN)

    def ready() -> bool:
        for name in (ETCD, API_SERVER):
            _check_alive(where, records, name)
        return client.healthy()

    steps.wait_until(
        ready, "the API server is ready", timeout_seconds=READY_SECONDS,
        explain=lambda: log_tail(where, API_SERVER),
    )  # fmt: skip
    return client


def start_companions(where: cache.Cache, records: processes.Records) -> None:
    """Start everything that talks to the API server, and the registry."""
    for name in (CONTROLLER_MANAGER, SCHEDULER, DNS, REGISTRY, PROVISIONER):
        _start(where, records, name)


def check(where: cache.Cache, records: processes.Records) -> None:
    """See that every process runs.

    Raises:
        ClusterError: one ended; the error shows its log's last lines.
    """
    for name in ALL:
        _check_alive(where, records, name)


def log_tail(where: cache.Cache, name: str) -> str:
    """The last lines of a process's log, under a line that names the file."""
    path = where.log / f"{name}.log"
    lines = path.read_text(errors="replace").splitlines()[-20:] if path.exists() else []
    return "\n".join([f"the last lines of {path}:", *(f"  {line}" for line in lines)])


def _check_alive(where: cache.Cache, records: processes.Records, name: str) -> None:
    if records.load(name) is None:
        raise errors.ClusterError(f"{name} does not run\n{log_tail(where, name)}")


def _start(where: cache.Cache, records: processes.Records, name: str) -> None:
    if records.load(name) is None:
        argv, env = _command(where, name)
        records.spawn(name, argv, log=where.log / f"{name}.log", env=env)


def _command(where: cache.Cache, name: str) -> tuple[list[str], dict[str, str]]:
    """What to run, and with which environment."""
    if name == ETCD:
        return _etcd(where), {}
    if name == API_SERVER:
        return _api_server(where), {}
    if name == CONTROLLER_MANAGER:
        return _controller_manager(where), {}
    if name == SCHEDULER:
        return [
            f"{where.bin / name}",
            f"--kubeconfig={where.pki / certificates.SCHEDULER}.kubeconfig",
            "--leader-elect=false",
            "--secure-port=0",
        ], {}
    if name == DNS:
        return [f"{where.bin / name}", f"-conf={_write_corefile(where)}"], {}
    if name == REGISTRY:
        return [*from_node_root(where, "docker-registry"), "serve", f"{_write_registry(where)}"], {
            "OTEL_TRACES_EXPORTER": "none"
        }
    folder = Path(__file__).resolve().parent.parent
    return [sys.executable, "-m", "devcluster.provisioner"], {
        "PYTHONPATH": os.fspath(folder),
        "CHREK_CACHE": os.fspath(where.root),
    }


def from_node_root(where: cache.Cache, program: str) -> list[str]:
    """Run a program of the nodes' root file system on the host, with that root's own libraries."""
    root = where.node_root
    loaders = sorted(root.glob("usr/lib*/ld-linux*.so.*")) or sorted(root.glob("lib*/ld-linux*"))
    if not loaders:
        raise errors.ClusterError(
            f"{root} has no dynamic loader", hint=f"remove {where.node} and run 'up' again"
        )
    libraries = ":".join(f"{path}" for path in sorted((root / "usr/lib").glob("*-linux-gnu*")))
    return [f"{loaders[0]}", "--library-path", libraries, f"{root / 'usr/bin' / program}"]


def _etcd(where: cache.Cache) -> list[str]:
    client = f"http://127.0.0.1:{addresses.ETCD_PORT}"
    peer = f"http://127.0.0.1:{addresses.ETCD_PEER_PORT}"
    return [
        *from_node_root(where, "etcd"),
        f"--data-dir={where.cluster / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        # The data lives as long as the cluster; a crash of the machine ends both.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server(where: cache.Cache) -> list[str]:
    pki = where.pki
    return [
        f"{where.bin / API_SERVER}",
        f"--etcd-servers=http://127.0.0.1:{addresses.ETCD_PORT}",
        f"--bind-address={addresses.HOST}",
        f"--advertise-address={addresses.HOST}",
        f"--secure-port={addresses.API_PORT}",
        f"--service-cluster-ip-range={addresses.SERVICES}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / certificates.API_SERVER}.crt",
        f"--tls-private-key-file={pki / certificates.API_SERVER}.key",
        f"--service-account-key-file={pki / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
        f"--service-account-issuer=https://kubernetes.default.svc.{addresses.CLUSTER_DOMAIN}",
        f"--kubelet-client-certificate={pki / certificates.KUBELET_CLIENT}.crt",
        f"--kubelet-client-key={pki / certificates.KUBELET_CLIENT}.key",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        # The host runs no kube-proxy: a webhook's service is resolved to a pod's address.
        "--enable-aggregator-routing=true",
        "--profiling=false",
    ]


def _controller_manager(where: cache.Cache) -> list[str]:
    pki = where.pki
    return [
        f"{where.bin / CONTROLLER_MANAGER}",
        f"--kubeconfig={pki / certificates.CONTROLLER_MANAGER}.kubeconfig",
        f"--service-account-private-key-file={pki / 'service-accounts.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        # A node's pod range follows from its number; see addresses.Node.
        "--allocate-node-cidrs=false",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--secure-port=0",
        "--profiling=false",
    ]


def _write_corefile(where: cache.Cache) -> Path:
    path = where.cluster / "Corefile"
    resolv_conf = Path("/etc/resolv.conf")
    forward = f"    forward . {resolv_conf} {{\n        max_concurrent 100\n    }}\n"
    has_resolver = resolv_conf.exists() and "nameserver" in resolv_conf.read_text()
    path.write_text(
        f".:{addresses.DNS_PORT} {{\n"
        f"    bind {addresses.HOST}\n"
        f"    errors\n"
        f"    health {addresses.HOST}:{addresses.DNS_HEALTH_PORT}\n"
        f"    hosts {{\n"
        f"        {addresses.HOST} {addresses.REGISTRY_NAME}\n"
        f"        fallthrough\n"
        f"    }}\n"
        f"    kubernetes {addresses.CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{\n"
        f"        kubeconfig {where.kubeconfig}\n"
        f"        pods insecure\n"
        f"        fallthrough in-addr.arpa ip6.arpa\n"
        f"        ttl 5\n"
        f"    }}\n"
        f"{forward if has_resolver else ''}"
        f"    cache 5\n"
        f"}}\n"
    )
    return path


def _write_registry(where: cache.Cache) -> Path:
    path = where.cluster / "registry.json"
    path.write_text(
        json.dumps(
            {
                "version": 0.1,
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {
                    "filesystem": {"rootdirectory": f"{where.cluster / 'registry'}"},
                    "delete": {"enabled": True},
                },
                "http": {"addr": f"{addresses.HOST}:{addresses.REGISTRY_PORT}"},
            }
        )
    )
    return path
