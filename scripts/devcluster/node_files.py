"""The configuration files of one node, written to its etc/ folder before it starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from devcluster import addresses, cache, certificates, images

INIT = Path(__file__).resolve().parent / "node-init.sh"
WHERE = "/etc/devcluster"
"""Where the node sees the folder."""


def write(where: cache.Cache, node: addresses.Node) -> None:
    """Write everything that a node reads at its start."""
    folder = where.nodes / node.name / "etc"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificates.ensure_node(where, node)
    for source, name in (
        (where.pki / "ca.crt", "ca.crt"),
        (where.pki / f"{node.name}.crt", "node.crt"),
        (where.pki / f"{node.name}.key", "node.key"),
        (where.pki / f"{node.name}.kubeconfig", "node.kubeconfig"),
        (where.pki / f"{certificates.PROXY}.kubeconfig", "proxy.kubeconfig"),
        (INIT, "init.sh"),
    ):
        shutil.copyfile(source, folder / name)
    (folder / "resolv.conf").write_text(
        f"search {addresses.CLUSTER_DOMAIN}\nnameserver {addresses.DNS_SERVICE}\n"
    )
    # Pods with the node's own DNS policy get no search list of the cluster's.
    (folder / "pods-resolv.conf").write_text(f"nameserver {addresses.DNS_SERVICE}\n")
    (folder / "hosts").write_text(
        f"127.0.0.1 localhost\n{addresses.HOST} {addresses.REGISTRY_NAME}\n"
        f"{node.address} {node.name}\n"
    )
    (folder / "containerd.toml").write_text(_containerd())
    (folder / "kubelet.json").write_text(json.dumps(_kubelet(node), indent=2))
    (folder / "kube-proxy.json").write_text(json.dumps(_kube_proxy(), indent=2))
    network = folder / "cni"
    network.mkdir(exist_ok=True)
    (network / "10-chrek.conflist").write_text(json.dumps(_pod_network(node), indent=2))
    for registry in (addresses.REGISTRY_NAME, addresses.HOST):
        hosts = folder / "registries" / f"{registry}:{addresses.REGISTRY_PORT}"
        hosts.mkdir(parents=True, exist_ok=True)
        (hosts / "hosts.toml").write_text(
            f'[host."http://{addresses.HOST}:{addresses.REGISTRY_PORT}"]\n'
            f'  capabilities = ["pull", "resolve"]\n'
        )


def _containerd() -> str:
    return f"""version = 2
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  # A profile would be loaded into the kernel of the whole machine.
  disable_apparmor = true
  # Inside a container or a sandbox the score cannot be lowered again.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{WHERE}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{WHERE}/registries"
"""


def _kubelet(node: addresses.Node) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{WHERE}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{WHERE}/node.crt",
        "tlsPrivateKeyFile": f"{WHERE}/node.key",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "enforceNodeAllocatable": ["pods"],
        "failCgroupV1": False,
        "failSwapOn": False,
        # Tests end containers on purpose, several times in a row: the usual pauses of 10, 20, 40 s
        # would be most of their time.
        "featureGates": {"KubeletCrashLoopBackOffMax": True},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        # Images are loaded, not pulled: one that is collected would not come back.
        "imageGCHighThresholdPercent": 100,
        "resolvConf": f"{WHERE}/pods-resolv.conf",
        "clusterDNS": [addresses.DNS_SERVICE],
        "clusterDomain": addresses.CLUSTER_DOMAIN,
        "seccompDefault": False,
    }


def _kube_proxy() -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": addresses.PODS,
        "clientConnection": {"kubeconfig": f"{WHERE}/proxy.kubeconfig"},
        # Zero leaves the settings alone: they are the whole machine's.
        "conntrack": {
            "maxPerCore": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def _pod_network(node: addresses.Node) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "chrek",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                # A pod keeps its address on the way to another node.
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    # On /run: addresses given out do not outlive a power loss.
                    "dataDir": "/run/cni-addresses",
                    "ranges": [[{"subnet": node.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
