"""Which pods can be checkpointed and restored at all.

Asked at admission, where a pod is left as it is, and again by the agent, because a pod can be
written by hand to look as if it had been admitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chrek import errors, names

SANDBOXES = ("kata", "gvisor", "runsc", "firecracker")
ARCHITECTURE = "amd64"


def check(spec: Mapping[str, Any], container: Mapping[str, Any]) -> None:
    """Refuse what cannot be captured or restored.

    Args:
        spec: of the pod.
        container: the managed one of its containers.

    Raises:
        UnsupportedError: with the reason and what to change.
    """
    reason = names.Reason
    if spec.get("shareProcessNamespace"):
        raise refused("shareProcessNamespace", reason.SHARED_PROCESS_NAMESPACE)
    for field in ("hostPID", "hostIPC", "hostNetwork"):
        if spec.get(field):
            raise refused(field, reason.HOST_NAMESPACE)
    if spec.get("hostUsers") is False:
        raise refused("hostUsers: false", reason.USER_NAMESPACE)
    if container.get("tty"):
        raise refused("tty", reason.TTY)
    runtime = str(spec.get("runtimeClassName") or "")
    if any(word in runtime.lower() for word in SANDBOXES):
        raise refused(f"runtimeClassName: {runtime}", reason.SANDBOXED_RUNTIME)
    if (spec.get("os") or {}).get("name") == "windows":
        raise refused("os.name: windows", reason.UNSUPPORTED)
    architecture = (spec.get("nodeSelector") or {}).get("kubernetes.io/arch", ARCHITECTURE)
    if architecture != ARCHITECTURE:
        raise refused(f"nodeSelector kubernetes.io/arch: {architecture}", reason.UNSUPPORTED)


def refused(what: str, reason: names.Reason) -> errors.UnsupportedError:
    """The error for one thing in a pod's spec."""
    return errors.UnsupportedError(
        f"{what} cannot be combined with checkpoints", reason=reason, hint=f"remove {what}"
    )
