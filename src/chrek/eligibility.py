"""Which pods can be checkpointed and restored at all.

Asked at admission, where a pod is left as it is, and again by the agent, because a pod can be
written by hand to look as if it had been admitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chrek import errors, names

SANDBOXES = ("kata", "gvisor", "runsc", "firecracker")
ARCHITECTURE = "amd64"
PARTITIONS = f"{names.GPU_DOMAIN}mig-"
"""Beginning of the names of parts of GPUs (NVIDIA's device plugin, MIG strategy `mixed`)."""


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
    for resource, count in ((container.get("resources") or {}).get("limits") or {}).items():
        # The driver cannot checkpoint them. Those that are called GPUs the agent refuses.
        if resource.startswith(PARTITIONS) and str(count) != "0":
            raise refused(f"resources.limits.{resource}", reason.GPU_PARTITIONED)
    runtime = str(spec.get("runtimeClassName") or "")
    if any(word in runtime.lower() for word in SANDBOXES):
        raise refused(f"runtimeClassName: {runtime}", reason.SANDBOXED_RUNTIME)
    if (spec.get("os") or {}).get("name") == "windows":
        raise refused("os.name: windows", reason.UNSUPPORTED)
    architecture = (spec.get("nodeSelector") or {}).get("kubernetes.io/arch", ARCHITECTURE)
    if architecture != ARCHITECTURE:
        raise refused(f"nodeSelector kubernetes.io/arch: {architecture}", reason.UNSUPPORTED)


def secret_variables(container: Mapping[str, Any]) -> tuple[str, ...]:
    """What brings values of Secrets into a container's environment: variables and Secrets."""
    single = [
        str(entry["name"])
        for entry in container.get("env") or []
        if "secretKeyRef" in (entry.get("valueFrom") or {})
    ]
    whole = [
        f"envFrom {(entry['secretRef'] or {}).get('name', '')}"
        for entry in container.get("envFrom") or []
        if "secretRef" in entry
    ]
    return (*single, *whole)


def acknowledged(metadata: Mapping[str, Any]) -> bool:
    """Whether an object says that an artifact may hold values of Secrets."""
    annotations = metadata.get("annotations") or {}
    return bool(annotations.get(names.ANNOTATION_ACKNOWLEDGE_SECRETS) == "true")


def check_secrets(variables: Sequence[str], *, allowed: bool) -> None:
    """Refuse to capture values of Secrets that nobody acknowledged.

    Args:
        variables: what `secret_variables` found.
        allowed: by the configuration or by an object that acknowledges them.

    Raises:
        UnsupportedError: names the variables, never their values.
    """
    if variables and not allowed:
        raise errors.UnsupportedError(
            f"the worker's environment has values of Secrets: {', '.join(variables[:8])}",
            reason=names.Reason.SECRETS_NOT_ACKNOWLEDGED,
            hint="they would be in the artifact; if that may be, annotate the DynamoCheckpoint or "
            f'the pod with {names.ANNOTATION_ACKNOWLEDGE_SECRETS}: "true"',
        )


def refused(what: str, reason: names.Reason) -> errors.UnsupportedError:
    """The error for one thing in a pod's spec."""
    return errors.UnsupportedError(
        f"{what} cannot be combined with checkpoints", reason=reason, hint=f"remove {what}"
    )
