"""What runs of the cluster, as a table and as a yes or no."""

from __future__ import annotations

import dataclasses

from devcluster import (
    addresses,
    cluster,
    control_plane,
    dns,
    errors,
    loading,
    network,
    nodes,
    objects,
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One part of the cluster."""

    part: str
    well: bool
    detail: str


def collect(one: cluster.Cluster) -> list[Row]:
    """The state of every part."""
    rows = []
    for name in control_plane.ALL:
        process = one.records.load(name)
        detail = f"pid {process.pid}" if process else "not running"
        rows.append(Row(name, process is not None, detail))
    rows.append(Row("network", addresses.BRIDGE in network.links(), addresses.BRIDGE))
    ready = _ready(one)
    running = nodes.running(one.records)
    for node in nodes.recorded(one.records):
        if node not in running:
            rows.append(Row(f"node {node.name}", False, "stopped"))
            continue
        well = ready.get(node.name, False)
        rows.append(
            Row(f"node {node.name}", well, f"{node.address}, {'Ready' if well else 'NotReady'}")
        )
    if not running:
        rows.append(Row("nodes", False, "none runs"))
    answer = dns.resolve(cluster.API_NAME)
    rows.append(Row("dns", bool(answer), f"{cluster.API_NAME} {answer or 'does not resolve'}"))
    return rows


def show(one: cluster.Cluster, rows: list[Row]) -> str:
    """The table that the command prints."""
    width = max(len(row.part) for row in rows)
    lines = [f"{row.part:<{width}}  {'ok' if row.well else '--'}  {row.detail}" for row in rows]
    lines.append("")
    lines.append(f"kubeconfig  {one.where.kubeconfig}")
    lines.append(f"registry    {addresses.REGISTRY_NAME}:{addresses.REGISTRY_PORT}"
                 f" (from the host: {addresses.HOST}:{addresses.REGISTRY_PORT})")  # fmt: skip
    lines.append(f"storage     class {objects.STORAGE_CLASS}, folders in {one.where.volumes}")
    lines.append(f"share       {one.where.share} is /share in every node")
    lines.append(f"logs        {one.where.log}")
    lines.append(f"images      {', '.join(sorted(loading.catalog(one.where))) or 'none'}")
    return "\n".join(lines)


def _ready(one: cluster.Cluster) -> dict[str, bool]:
    try:
        return objects.ready_nodes(one.client())
    except (OSError, errors.ClusterError):
        return {}
