"""The Job that makes a checkpoint, built from a DynamoCheckpoint.

`podTemplateSpec` passes through except for what the module changes on purpose:
- labels are replaced, so that no Service, NetworkPolicy or PodDisruptionBudget meant for serving
  pods selects the pod that is being captured;
- of the captured container: liveness and startup probes (a frozen process fails them) and lifecycle
  hooks are removed; the readiness probe stays, it may be the sign that the worker is ready;
- service meshes are told to stay away, cluster autoscalers not to evict;
- restartPolicy is Never: a new attempt is a new pod;
- what `podshape` and, for several GPUs, `nccl` add.
Containers beside the captured one must be native sidecars: another main container would keep the
Job from ending.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from chrek import config, eligibility, errors, names, variant
from chrek.operator import nccl, place, podshape, templates

Object = dict[str, Any]

WAIT_SECONDS = "300"
ANNOTATION_ATTEMPT = "nvidia.com/chrek-attempt"


def name(identity_hash: str, variant_name: str = "") -> str:
    """The Job's name; `kubectl logs job/checkpoint-<hash>` is in the user's guide.

    Args:
        identity_hash: of the identity.
        variant_name: for a variant beside the one whose Job has the plain name.
    """
    suffix = f"-{variant_name[:8]}" if variant_name else ""
    return f"checkpoint-{identity_hash}{suffix}"


def attempt(job: Mapping[str, Any]) -> str:
    """Which attempt a Job was made for."""
    return str((job["metadata"].get("annotations") or {}).get(ANNOTATION_ATTEMPT, ""))


def build(
    checkpoint: Mapping[str, Any],
    wanted: templates.Wanted,
    entry: Mapping[str, Any],
    *,
    identity_hash: str,
    settings: config.OperatorConfig,
    own: str,
) -> Object:
    """The Job of one capture.

    Args:
        checkpoint: the DynamoCheckpoint that owns it.
        wanted: what is captured.
        entry: of the status: names the Job and the attempt.
        identity_hash: of the identity.
        settings: the operator's configuration.
        own: the release's namespace.

    Raises:
        InputError, UnsupportedError: the pod template cannot be captured; says why.
    """
    metadata, job = checkpoint["metadata"], wanted.job or checkpoint["spec"].get("job") or {}
    where = place.of(settings.storage, namespace=metadata["namespace"], own=own)
    labels = {
        names.LABEL_SOURCE: "true",
        **dict.fromkeys(names.LABEL_ALIASES, "true"),
        names.LABEL_HASH: identity_hash,
        "app.kubernetes.io/name": "chrek-checkpoint-job",
        "app.kubernetes.io/managed-by": "chrek-operator",
    }
    spec: Object = {
        "backoffLimit": job.get("backoffLimit", 3),
        "completions": 1,
        "parallelism": 1,
        # An attempt's GPUs are free only when its pod is gone altogether.
        "podReplacementPolicy": "Failed",
        "template": _template(
            checkpoint, wanted, labels, where, identity_hash, job=job, settings=settings
        ),
    }
    # Of the pod, not of the Job: its clock begins when the pod has a node.
    spec["template"]["spec"]["activeDeadlineSeconds"] = job.get("activeDeadlineSeconds", 3600)
    if job.get("ttlSecondsAfterFinished") is not None:
        spec["ttlSecondsAfterFinished"] = job["ttlSecondsAfterFinished"]
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": names.CHECKPOINT_KIND,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": entry["jobName"],
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": {ANNOTATION_ATTEMPT: entry.get("attempt", "")},
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def pod(job: Mapping[str, Any]) -> Object:
    """The pod that the Job will make, to ask the API server whether it admits it.

    Its name is always the same, as the answer, which goes into a status, repeats it: a new status
    each time would have the operator ask again at once, without end.
    """
    template = job["spec"]["template"]
    metadata = {
        **template["metadata"],
        "name": job["metadata"]["name"],
        "namespace": job["metadata"]["namespace"],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _template(
    checkpoint: Mapping[str, Any],
    wanted: templates.Wanted,
    labels: Mapping[str, str],
    where: place.Place,
    identity_hash: str,
    *,
    job: Mapping[str, Any],
    settings: config.OperatorConfig,
) -> Object:
    template: Object = copy.deepcopy(wanted.template)
    spec: Object = template["spec"]
    metadata = checkpoint["metadata"]
    index = podshape.container_index(spec, wanted.container or None)
    container = spec["containers"][index]
    podshape.check(spec, container)
    _check_others(spec, container)
    acknowledged = eligibility.acknowledged(metadata) or eligibility.acknowledged(
        template.get("metadata") or {}
    )
    eligibility.check_secrets(
        eligibility.secret_variables(container),
        allowed=acknowledged or settings.envFromSecrets == config.EnvFromSecrets.ALLOW,
    )
    command = variant.worker_command(container)
    if not container.get("command"):
        raise errors.UnsupportedError(
            f"container {container['name']!r} has no `command`",
            reason=names.Reason.COMMAND_UNKNOWN,
            hint="write the worker's command into the pod template: chrek-init must start it",
        )
    for field in ("livenessProbe", "startupProbe", "lifecycle"):
        container.pop(field, None)
    shaped = podshape.shape(
        spec,
        index=index,
        command=command,
        arguments=["--source", "--wait", WAIT_SECONDS],
        environment=[
            *podshape.environment(where, identity_hash=identity_hash, source=True),
            *nccl.environment(container, (template.get("metadata") or {}).get("annotations")),
        ],
        image=settings.initImage,
        pull_policy=settings.initImagePullPolicy,
    )
    shaped["restartPolicy"] = "Never"
    capture = {
        "checkpoint": checkpoint["metadata"]["name"],
        "identityHash": identity_hash,
        "readiness": job.get("readiness", "auto"),
    }
    annotations = {
        **((template.get("metadata") or {}).get("annotations") or {}),
        names.ANNOTATION_CAPTURE: json.dumps(capture, sort_keys=True),
        names.ANNOTATION_CONTAINER: container["name"],
        **({names.ANNOTATION_ACKNOWLEDGE_SECRETS: "true"} if acknowledged else {}),
        "sidecar.istio.io/inject": "false",
        "linkerd.io/inject": "disabled",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    for unwanted in (
        names.ANNOTATION_CHECKPOINT,
        names.ANNOTATION_IDENTITY,
        names.ANNOTATION_CAPTURE_SOURCE,
        names.ANNOTATION_SKIPPED,
        names.ANNOTATION_RESULT,
        names.ANNOTATION_START,
    ):
        annotations.pop(unwanted, None)
    pod_labels = {**labels, names.LABEL_MANAGED: "true", "sidecar.istio.io/inject": "false"}
    return {"metadata": {"labels": pod_labels, "annotations": annotations}, "spec": shaped}


def _check_others(spec: Mapping[str, Any], managed: Mapping[str, Any]) -> None:
    others = [c["name"] for c in spec["containers"] if c is not managed]
    if others:
        raise errors.UnsupportedError(
            f"containers beside {managed['name']!r}: {', '.join(others)}",
            reason=names.Reason.UNSUPPORTED,
            hint="make them native sidecars: initContainers with restartPolicy Always",
        )
