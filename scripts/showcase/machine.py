"""Facts of the machine that figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

from showcase import cluster


def facts(live: cluster.Cluster | None) -> dict[str, Any]:
    """CPU, memory and kernel of this machine, and what a cluster, if any, says of its nodes."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next(
        (line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if "model name" in line),
        platform.machine(),
    )
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "transparent_hugepages": pages.read_text().strip() if pages.exists() else "",
        **(_nodes(live) if live else {}),
    }


def _nodes(live: cluster.Cluster) -> dict[str, Any]:
    nodes = live.items("/api/v1/nodes")
    return {
        "nodes_are_this_machine": live.own,
        "nodes": [
            {
                "name": node["metadata"]["name"],
                "kubelet": node["status"]["nodeInfo"]["kubeletVersion"],
                "container_runtime": node["status"]["nodeInfo"]["containerRuntimeVersion"],
                "kernel": node["status"]["nodeInfo"]["kernelVersion"],
            }
            for node in nodes
        ],
    }
