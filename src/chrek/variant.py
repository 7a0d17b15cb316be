"""The variant of a checkpoint: what differs between workers of one identity.

Image, command and GPU request are not part of the identity hash, yet a process captured from one
image cannot continue in another. An identity therefore holds several variants, each with its own
artifact, named by a hash of what differs.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from chrek import names


def worker_command(container: Mapping[str, Any]) -> list[str]:
    """The worker's own command line: what stands after `--` once chrek-init is in front."""
    argv = [*(container.get("command") or []), *(container.get("args") or [])]
    if argv[:1] == [names.INIT_PATH] and "--" in argv:
        return argv[argv.index("--") + 1 :]
    return argv


def name(image: str, command: Sequence[str], gpu: str = "") -> str:
    """Name of the variant: 12 hex digits.

    Args:
        image: the image reference as the pod spec has it.
        command: the worker's command line, without chrek-init.
        gpu: what `gpus` says, empty without one.
    """
    facts = {
        "arch": platform.machine(),
        "command": list(command),
        "gpu": gpu,
        "image": image,
    }
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def gpus(container: Mapping[str, Any]) -> str:
    """The GPUs that a container asks for, such as `nvidia.com/gpu=2`; empty without any.

    Of extended resources the limit is what counts.
    """
    limits = (container.get("resources") or {}).get("limits") or {}
    wanted = {k: str(v) for k, v in limits.items() if k.startswith(names.GPU_DOMAIN)}
    return ",".join(f"{k}={v}" for k, v in sorted(wanted.items()) if v != "0")


def of_container(container: Mapping[str, Any]) -> str:
    """Name of the variant that a pod's container is of."""
    image = str(container.get("image", ""))
    return name(image, worker_command(container), gpus(container))
