"""A pod template made of a pod that runs, or of the template of a Deployment.

A pod that runs holds more than its owner wrote: what chrek put in front of the worker, what
admission, scheduler and controllers filled in. All of that is taken out, so that the template can
be the `podTemplateSpec` of a DynamoCheckpoint. Defaults of the API server may stay.

What cannot be told apart stays as well:
- containers that other webhooks injected, such as those of a service mesh;
- the volumes of a StatefulSet's own claims: whether a checkpoint job can mount a claim beside the
  pod that uses it is up to the claim (ReadWriteOnce: on the same node; ReadWriteOncePod: never).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from chrek import names, variant

Object = dict[str, Any]

_OURS = ("nvidia.com/chrek-", "chrek.nvidia.com/")
_FOREIGN_ANNOTATIONS = (
    "cni.projectcalico.org/",
    "k8s.ovn.org/",
    "k8s.v1.cni.cncf.io/network-status",
    "k8s.v1.cni.cncf.io/networks-status",
    "kubectl.kubernetes.io/",
    "kubernetes.io/",
    "sidecar.istio.io/status",
)
"""Beginnings of annotations that say something of one pod only."""
_ASSIGNED = (
    "ephemeralContainers",
    "nodeName",
    # Follows from the RuntimeClass, and must equal it.
    "overhead",
    # These two follow from the PriorityClass, and must equal it.
    "preemptionPolicy",
    "priority",
    # The Job has its own.
    "restartPolicy",
    "schedulingGates",
    # The older name of serviceAccountName, filled in by the API server.
    "serviceAccount",
)
_DEFAULTS = {"enableServiceLinks": True, "serviceAccountName": "default", "securityContext": {}}
_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_ACCOUNT = "kube-api-access-"
"""Beginning of the name of the volume that admission adds for the service account's token."""
_NAMED_BY_CONTROLLER = ("StatefulSet", "Job")
_ENVIRONMENT = {
    names.ENV_STORAGE_TYPE,
    names.ENV_LOCATION,
    names.ENV_PATH,
    names.ENV_HASH,
    names.ENV_READY_FILE,
    names.ENV_CONTROL_DIRECTORY,
    *names.ENV_ALIASES,
}


_KEPT = frozenset({names.ANNOTATION_CONTAINER, names.ANNOTATION_NCCL})
"""Annotations of chrek's that say what a worker is."""


def from_pod(pod: Mapping[str, Any]) -> Object:
    """The template that pods such as this one can be made of.

    The worker's whole command line becomes `command`: how it was split into `command` and `args`
    is not known any more. The variant of each container stays the same.

    Args:
        pod: as the API server shows it.

    Returns:
        `spec`, and `metadata` with the annotations that the pod's owner wrote, of chrek's `_KEPT`.
    """
    made = from_template(pod)
    owners = (pod.get("metadata") or {}).get("ownerReferences") or []
    if any(owner.get("kind") in _NAMED_BY_CONTROLLER for owner in owners):
        for field in ("hostname", "subdomain"):
            made["spec"].pop(field, None)
    return made


def from_template(template: Mapping[str, Any]) -> Object:
    """The same for the pod template of a workload.

    Args:
        template: `metadata` and `spec`.
    """
    spec = copy.deepcopy(dict(template.get("spec") or {}))
    _without_chrek(spec)
    _without_token(spec)
    for field in _ASSIGNED:
        spec.pop(field, None)
    for field, value in _DEFAULTS.items():
        if spec.get(field) == value:
            del spec[field]
    _filter(spec, "tolerations", lambda toleration: not _is_default(toleration))
    metadata: Object = {}
    annotations = {
        key: value
        for key, value in ((template.get("metadata") or {}).get("annotations") or {}).items()
        if key in _KEPT or not key.startswith((*_OURS, *_FOREIGN_ANNOTATIONS))
    }
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": spec}


def _without_chrek(spec: Object) -> None:
    """Undo what `podshape.shape` does."""
    shaped = [c for c in spec.get("containers") or [] if _is_shaped(c)]
    if not shaped:
        return  # What carries our names is the owner's then.
    for container in shaped:
        container["command"] = variant.worker_command(container)
        container.pop("args", None)
        _filter(container, "env", lambda variable: variable.get("name") not in _ENVIRONMENT)
        _filter(container, "volumeMounts", lambda mount: mount.get("name") != names.VOLUME)
    _filter(spec, "initContainers", lambda c: c.get("name") != names.INIT_CONTAINER)
    _filter(spec, "volumes", lambda volume: volume.get("name") != names.VOLUME)


def _without_token(spec: Object) -> None:
    _filter(spec, "volumes", lambda volume: not _is_token(volume))
    for field in ("containers", "initContainers"):
        for container in spec.get(field) or []:
            _filter(container, "volumeMounts", lambda mount: not _is_token(mount))


def _is_shaped(container: Mapping[str, Any]) -> bool:
    command = container.get("command") or []
    return command[:1] == [names.INIT_PATH] and "--" in command


def _is_token(named: Mapping[str, Any]) -> bool:
    return str(named.get("name", "")).startswith(_ACCOUNT)


def _is_default(toleration: Mapping[str, Any]) -> bool:
    return (
        toleration.get("key") in _TAINTS
        and toleration.get("operator") == "Exists"
        and toleration.get("effect") == "NoExecute"
        and toleration.get("tolerationSeconds") == 300
    )


def _filter(holder: Object, field: str, keep: Callable[[Object], bool]) -> None:
    """Keep some elements of a list; a list that becomes empty goes."""
    if field not in holder:
        return
    kept = [element for element in holder[field] or [] if keep(element)]
    if kept:
        holder[field] = kept
    else:
        del holder[field]
