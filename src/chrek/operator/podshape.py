"""What chrek changes in a pod: shared by the webhook (workers) and by checkpoint jobs.

One emptyDir, one init container that puts chrek-init into it, chrek-init in front of the managed
container's command, a few environment variables. Nothing here may make a pod fail that would start
without it: the init container passes Pod Security *restricted* and resource quotas.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from chrek import eligibility, errors, names
from chrek.operator import place

Object = dict[str, Any]


def container_index(spec: Mapping[str, Any], wanted: str | None = None) -> int:
    """Position of the managed container: the wanted one, else `main`, else the only one.

    Raises:
        UnsupportedError: reason ContainerUnknown.
    """
    found = [str(container.get("name", "")) for container in spec.get("containers") or []]
    if wanted:
        if wanted in found:
            return found.index(wanted)
        hint = "one container of a pod can be managed" if "," in wanted else "correct the name"
        raise errors.UnsupportedError(
            f"no container is named {wanted!r}; there are: {', '.join(found)}",
            reason=names.Reason.CONTAINER_UNKNOWN,
            hint=hint,
        )
    if names.DEFAULT_CONTAINER in found:
        return found.index(names.DEFAULT_CONTAINER)
    if len(found) == 1:
        return 0
    raise errors.UnsupportedError(
        f"which container is the worker? There are: {', '.join(found)}",
        reason=names.Reason.CONTAINER_UNKNOWN,
        hint=f"call one {names.DEFAULT_CONTAINER} or name it in {names.ANNOTATION_CONTAINER}",
    )


def is_shaped(spec: Mapping[str, Any]) -> bool:
    """Whether chrek-init already stands in front of a container's command."""
    return any(
        (container.get("command") or [])[:1] == [names.INIT_PATH]
        for container in spec.get("containers") or []
    )


def check(spec: Mapping[str, Any], container: Mapping[str, Any]) -> None:
    """Refuse what cannot be captured or restored.

    Raises:
        UnsupportedError: with the reason and what to change.
    """
    eligibility.check(spec, container)
    taken = names.Reason.MOUNT_PATH_TAKEN
    for mount in container.get("volumeMounts") or []:
        where = str(mount.get("mountPath", "")).rstrip("/")
        if where == names.MOUNT_PATH or where.startswith(f"{names.MOUNT_PATH}/"):
            raise eligibility.refused(f"a volume mounted at {where}", taken)
    if any(volume.get("name") == names.VOLUME for volume in spec.get("volumes") or []):
        raise eligibility.refused(f"a volume named {names.VOLUME}", taken)
    if any(c.get("name") == names.INIT_CONTAINER for c in spec.get("initContainers") or []):
        raise eligibility.refused(f"an init container named {names.INIT_CONTAINER}", taken)


def shape(
    spec: Mapping[str, Any],
    *,
    index: int,
    command: Sequence[str],
    arguments: Sequence[str],
    environment: Sequence[Mapping[str, Any]],
    image: str,
    pull_policy: str,
) -> Object:
    """A copy of the pod's spec with chrek-init in front of the managed container.

    Args:
        spec: the pod's spec.
        index: position of the managed container.
        command: the worker's command line.
        arguments: options of chrek-init, such as `["--wait", "20"]`.
        environment: variables that come first and replace the container's own of these names.
        image: chrek-init's image.
        pull_policy: its imagePullPolicy.
    """
    shaped = copy.deepcopy(dict(spec))
    container = shaped["containers"][index]
    container["command"] = [names.INIT_PATH, *arguments, "--", *command]
    container.pop("args", None)
    ours = {variable["name"] for variable in environment}
    kept = [v for v in container.get("env") or [] if v.get("name") not in ours]
    container["env"] = [*map(dict, environment), *kept]
    mount = {"name": names.VOLUME, "mountPath": names.MOUNT_PATH}
    container["volumeMounts"] = [*(container.get("volumeMounts") or []), mount]
    shaped["volumes"] = [*(shaped.get("volumes") or []), {"name": names.VOLUME, "emptyDir": {}}]
    init = _init_container(container, image, pull_policy)
    shaped["initContainers"] = [init, *(shaped.get("initContainers") or [])]
    return shaped


def environment(where: place.Place, *, identity_hash: str, source: bool) -> list[dict[str, str]]:
    """Environment variables of chrek under today's and the older names.

    Args:
        where: the artifacts of the pod's namespace.
        identity_hash: empty when it is not known yet.
        source: whether the pod is a checkpoint job's. Only those get the ready file: a worker that
            sees it does not serve.
    """
    values = {names.ENV_STORAGE_TYPE: where.storage_type}
    if where.storage_type == "pvc" and not source:
        values[names.ENV_PATH] = where.base
    elif identity_hash:
        values[names.ENV_LOCATION] = where.location(identity_hash)
    if source:
        values[names.ENV_READY_FILE] = names.READY_FILE
        values[names.ENV_CONTROL_DIRECTORY] = names.MOUNT_PATH
    if identity_hash:
        values[names.ENV_HASH] = identity_hash
    older = {old: values[new] for old, new in names.ENV_ALIASES.items() if new in values}
    return [{"name": name, "value": value} for name, value in {**values, **older}.items()]


def _init_container(managed: Mapping[str, Any], image: str, pull_policy: str) -> Object:
    resources: Object = {
        "requests": {"cpu": "10m", "memory": "16Mi"},
        "limits": {"cpu": "10m", "memory": "16Mi"},
    }
    # A quota on ephemeral storage wants it of every container. A limit here alone would become the
    # limit of the whole pod, so it is set only where the worker has one.
    for kind, value in (("requests", "1Mi"), ("limits", "16Mi")):
        if "ephemeral-storage" in ((managed.get("resources") or {}).get(kind) or {}):
            resources[kind]["ephemeral-storage"] = value
    return {
        "name": names.INIT_CONTAINER,
        "image": image,
        "imagePullPolicy": pull_policy,
        "command": ["/chrek-init", "--install", names.INIT_PATH],
        "resources": resources,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": names.VOLUME, "mountPath": names.MOUNT_PATH}],
    }
