"""Kernel settings of the whole machine that a kubelet changes, remembered and put back."""

from __future__ import annotations

import json
from pathlib import Path

from devcluster import cache

# What the kubelet sets unless told to protect them, from its container manager.
BY_KUBELET = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
]

# Each containerd, kubelet, and pod takes some; the kernel's own 128 is soon used up.
AT_LEAST = {"fs/inotify/max_user_instances": 1024, "fs/inotify/max_user_watches": 262144}

PROC = Path("/proc/sys")


def raise_limits(where: cache.Cache) -> None:
    """Remember the settings, once per cluster, and raise what is too low."""
    saved = where.cluster / "sysctls.json"
    if not saved.exists():
        values = {
            name: (PROC / name).read_text().strip()
            for name in [*BY_KUBELET, *AT_LEAST]
            if (PROC / name).exists()
        }
        saved.write_text(json.dumps(values, indent=2))
    for name, least in AT_LEAST.items():
        path = PROC / name
        if path.exists() and int(path.read_text()) < least:
            path.write_text(str(least))


def restore(where: cache.Cache) -> None:
    """Put the remembered settings back."""
    saved = where.cluster / "sysctls.json"
    if not saved.exists():
        return
    for name, value in json.loads(saved.read_text()).items():
        if (PROC / name).read_text().strip() != value:
            (PROC / name).write_text(value)
    saved.unlink()
