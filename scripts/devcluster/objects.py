"""The Kubernetes objects that belong to the cluster itself."""

from __future__ import annotations

import time

from devcluster import addresses, api

STORAGE_CLASS = "shared"
PROVISIONER = "shared.chrek.test"


def apply_addons(client: api.Client) -> None:
    """Create the storage class and the DNS service."""
    client.apply("/apis/storage.k8s.io/v1/storageclasses", storage_class())
    client.apply("/api/v1/namespaces/kube-system/services", dns_service())
    client.apply("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", dns_endpoints())


def apply_node(client: api.Client, node: addresses.Node) -> None:
    """Create a node's object ahead of its kubelet, with the pod range that its number gives it."""
    client.apply(
        "/api/v1/nodes",
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name}},
            "spec": {"podCIDR": node.pods, "podCIDRs": [node.pods]},
        },
    )


def ready_nodes(client: api.Client, *, since: float = 0.0) -> dict[str, bool]:
    """Whether each node is ready.

    Args:
        since: Unix time; what a kubelet said before it does not count. The API server
            believes a node that lost its power for most of a minute.
    """
    earliest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
    return {
        item["metadata"]["name"]: any(
            condition["type"] == "Ready"
            and condition["status"] == "True"
            and condition["lastHeartbeatTime"] >= earliest
            for condition in item.get("status", {}).get("conditions", [])
        )
        for item in client.get("/api/v1/nodes")["items"]
    }


def storage_class() -> api.Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def dns_service() -> api.Object:
    """The service without a selector: its endpoint is the host's CoreDNS."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns"},
        },
        "spec": {
            "clusterIP": addresses.DNS_SERVICE,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": addresses.DNS_PORT},
                {
                    "name": "dns-tcp",
                    "port": 53,
                    "protocol": "TCP",
                    "targetPort": addresses.DNS_PORT,
                },
            ],
        },
    }


def dns_endpoints() -> api.Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-host",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "dns", "port": addresses.DNS_PORT, "protocol": "UDP"},
            {"name": "dns-tcp", "port": addresses.DNS_PORT, "protocol": "TCP"},
        ],
        "endpoints": [{"addresses": [addresses.HOST], "conditions": {"ready": True}}],
    }
