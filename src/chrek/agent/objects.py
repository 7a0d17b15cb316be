"""What the agent keeps in memory of pods and DynamoCheckpoints: a few hundred bytes each."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from typing import Any

import msgspec

from chrek import compatibility, eligibility, errors, manifest, names, state, variant

_OURS = frozenset(
    {
        *(names.ENV_STORAGE_TYPE, names.ENV_LOCATION, names.ENV_PATH, names.ENV_HASH),
        *(names.ENV_READY_FILE, names.ENV_CONTROL_DIRECTORY, *names.ENV_ALIASES),
    }
)


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of this node that is managed by chrek."""

    namespace: str
    name: str
    uid: str
    checkpoint: str
    """Value of the opt-in annotation; empty in checkpoint jobs."""
    container: str
    """The managed container."""
    image: str
    command: tuple[str, ...]
    variant: str
    environment: dict[str, str]
    volumes: tuple[manifest.Volume, ...]
    has_readiness_probe: bool
    never_restarts: bool
    ready: bool
    finished: bool
    owner_job: str
    refused: tuple[str, str] | None = None
    """Reason and message when such a pod cannot be captured or restored."""
    capture: dict[str, str]
    """The operator's request in a checkpoint job's pod; empty elsewhere."""
    capture_source: str = ""
    """What its checkpoint is to be captured from, when it is made from this pod."""
    ip: str = ""
    ending: bool = False
    """It was deleted, evicted or ended as a whole: what its containers do now is no fault."""
    container_id: str = ""
    """ID of the managed container that the kubelet reported last."""
    exits: dict[str, int] = {}
    """Container ID -> exit code of the managed container's runs that the kubelet still knows."""
    origin: compatibility.Origin = compatibility.Origin()
    """What is compared besides, and only the pod's object knows."""
    secret_variables: tuple[str, ...] = ()
    """What brings values of Secrets into the worker's environment."""
    secrets_acknowledged: bool = False
    probe_delay_seconds: int = 0
    """Until then the kubelet cannot have found the managed container ready."""
    trace: str = ""
    """UID of the admission that injected it."""

    @property
    def log_fields(self) -> dict[str, str]:
        """What log lines name it by."""
        fields = {"pod": self.name, "namespace": self.namespace}
        return {**fields, "trace": self.trace} if self.trace else fields


class Variant(msgspec.Struct, frozen=True):
    """One entry of a DynamoCheckpoint's `status.variants`."""

    name: str
    uuid: str = ""
    digest: str = ""
    image: str = ""
    created_at: str = ""
    """RFC 3339 in UTC: sorts as text."""
    suspect: bool = False


class Capture(msgspec.Struct, frozen=True):
    """One entry of `status.captures`: a capture that is under way or failed."""

    variant: str
    phase: str = ""
    job: str = ""
    """Name of the Job; empty when a serving pod is captured."""
    pods: frozenset[str] = frozenset()
    """UIDs."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What captures and restores need of a DynamoCheckpoint."""

    namespace: str
    name: str
    phase: str
    identity_hash: str
    variants: tuple[Variant, ...]
    captures: tuple[Capture, ...] = ()
    capture_source: str = names.CaptureSource.JOB
    quiesce: dict[str, Any] | None = None
    wake: dict[str, Any] | None = None
    deleting: bool = False
    secrets_acknowledged: bool = False
    prewarm: bool = False
    reason: str = ""
    """Of the condition Ready, as is the message."""
    message: str = ""


def pod(item: Mapping[str, Any]) -> Pod | None:
    """Project a pod; None when it is not managed."""
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    annotations = metadata.get("annotations") or {}
    labels = metadata.get("labels") or {}
    container_name = annotations.get(names.ANNOTATION_CONTAINER, names.DEFAULT_CONTAINER)
    containers = {c["name"]: c for c in spec["containers"]}
    container = containers.get(container_name)
    if container is None:
        return None
    is_source = labels.get(names.LABEL_SOURCE) == "true"
    statuses = {s["name"]: s for s in status.get("containerStatuses") or []}
    own = statuses.get(container_name, {})
    refused = None
    try:
        eligibility.check(spec, container)
    except errors.UnsupportedError as err:
        refused = (str(err.reason), str(err))
    owners = [o for o in metadata.get("ownerReferences") or [] if o["kind"] == "Job"]
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        checkpoint="" if is_source else annotations.get(names.ANNOTATION_CHECKPOINT, ""),
        container=container_name,
        image=str(container.get("image", "")),
        command=tuple(variant.worker_command(container)),
        variant=variant.of_container(container),
        environment=environment(container),
        volumes=_volumes(spec, container),
        has_readiness_probe="readinessProbe" in container,
        never_restarts=spec.get("restartPolicy", "Always") == "Never",
        ready=bool(own.get("ready")),
        finished=status.get("phase") in ("Succeeded", "Failed"),
        owner_job=owners[0]["name"] if owners else "",
        refused=refused,
        capture=_capture(annotations) if is_source else {},
        capture_source=annotations.get(names.ANNOTATION_CAPTURE_SOURCE, ""),
        ip=status.get("podIP") or "",
        ending=_ending(metadata, status),
        container_id=_id(own.get("containerID")),
        exits=_exits(own),
        origin=_origin(spec, container, own),
        secret_variables=eligibility.secret_variables(container),
        secrets_acknowledged=eligibility.acknowledged(metadata),
        probe_delay_seconds=_probe_delay(container),
        trace=annotations.get(names.ANNOTATION_TRACE, "")[:64],
    )


def _ending(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether the pod as a whole is being ended from outside.

    A reason of the pod itself is written by the kubelet when it ends the pod: Evicted,
    NodeShutdown, DeadlineExceeded, Preempting.
    """
    return bool(
        metadata.get("deletionTimestamp")
        or status.get("reason")
        or any(
            c.get("type") == "DisruptionTarget" and c.get("status") == "True"
            for c in status.get("conditions") or []
        )
    )


def _exits(status: Mapping[str, Any]) -> dict[str, int]:
    found = {}
    for key in ("lastState", "state"):
        ended = (status.get(key) or {}).get("terminated")
        if ended and "exitCode" in ended:
            found[_id(ended.get("containerID"))] = int(ended["exitCode"])
    return found


def _id(reference: str | None) -> str:
    """The container ID of `containerd://<id>`."""
    return (reference or "").rpartition("/")[2]


def _probe_delay(container: Mapping[str, Any]) -> int:
    """Seconds in which the first success can come, with the API server's defaults.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Probe
    """
    total = 0
    for name in ("startupProbe", "readinessProbe"):
        probe = container.get(name)
        if probe:
            rounds = int(probe.get("successThreshold") or 1)
            total += int(probe.get("initialDelaySeconds") or 0)
            total += int(probe.get("periodSeconds") or 10) * rounds
    return total


def checkpoint(item: Mapping[str, Any]) -> Checkpoint:
    """Project a DynamoCheckpoint."""
    metadata, spec = item["metadata"], item.get("spec") or {}
    status = state.status_of(item)
    conditions = {c.get("type"): c for c in status.get("conditions") or []}
    ready = conditions.get(names.CONDITION_READY, {})
    return Checkpoint(
        namespace=metadata["namespace"],
        name=metadata["name"],
        phase=status.get("phase", ""),
        identity_hash=status.get("identityHash", ""),
        variants=tuple(_variant(v) for v in status.get("variants") or []),
        captures=tuple(_capture_of(c) for c in status.get("captures") or []),
        capture_source=spec.get("captureSource") or names.CaptureSource.JOB,
        quiesce=spec.get("quiesce"),
        wake=spec.get("wake"),
        deleting=bool(metadata.get("deletionTimestamp")),
        secrets_acknowledged=eligibility.acknowledged(metadata),
        prewarm=(metadata.get("annotations") or {}).get(names.ANNOTATION_PREWARM) == "true",
        reason=ready.get("reason", ""),
        message=ready.get("message", ""),
    )


def _variant(entry: Mapping[str, Any]) -> Variant:
    return Variant(
        name=entry.get("name", ""),
        uuid=entry.get("uuid", ""),
        digest=entry.get("digest", ""),
        image=entry.get("image", ""),
        created_at=entry.get("createdAt", ""),
        suspect=bool(entry.get("suspect")),
    )


def _capture_of(entry: Mapping[str, Any]) -> Capture:
    return Capture(
        variant=entry.get("variant", ""),
        phase=entry.get("phase", ""),
        job=entry.get("jobName", ""),
        pods=frozenset(p.get("uid", "") for p in entry.get("pods") or []),
    )


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """Name -> digest of every variable that a worker's memory may depend on.

    The downward API and chrek's own variables differ between pods by nature and are left out; of a
    Secret or ConfigMap the reference counts, not the value.
    """
    found = {}
    for entry in container.get("env") or []:
        source = entry.get("valueFrom") or {}
        if entry["name"] in _OURS or "fieldRef" in source or "resourceFieldRef" in source:
            continue
        text = json.dumps(source, sort_keys=True) if source else str(entry.get("value") or "")
        found[entry["name"]] = hashlib.sha256(text.encode()).hexdigest()[:16]
    for number, entry in enumerate(container.get("envFrom") or []):
        text = json.dumps(entry, sort_keys=True)
        found[f"envFrom[{number}]"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def _volumes(spec: Mapping[str, Any], container: Mapping[str, Any]) -> tuple[manifest.Volume, ...]:
    """The emptyDirs of the managed container, and `/dev/shm`."""
    others = [c for c in spec["containers"] if c["name"] != container["name"]]
    others += [c for c in spec.get("initContainers") or [] if c["name"] != names.INIT_CONTAINER]
    shared = {m["name"] for c in others for m in c.get("volumeMounts") or []}
    empty_dirs = {
        v["name"]
        for v in spec.get("volumes") or []
        if "emptyDir" in v and v["name"] != names.VOLUME
    }
    found = [
        manifest.Volume(path=_clean(m["mountPath"]), exclusive=m["name"] not in shared)
        for m in container.get("volumeMounts") or []
        if m["name"] in empty_dirs and not (m.get("subPath") or m.get("readOnly"))
    ]
    if not any(volume.path == "/dev/shm" for volume in found):  # noqa: S108 - the pod's own
        found.append(manifest.Volume(path="/dev/shm", exclusive=not others))  # noqa: S108
    return tuple(found)


def _origin(
    spec: Mapping[str, Any], container: Mapping[str, Any], status: Mapping[str, Any]
) -> compatibility.Origin:
    variables, every = {}, ""
    for entry in container.get("env") or []:
        source = entry.get("valueFrom") or {}
        known = {"secretKeyRef": "secret", "configMapKeyRef": "configMap"}
        variables[entry["name"]] = next((known[key] for key in known if key in source), "")
    for entry in container.get("envFrom") or []:
        every = "secret" if every == "secret" or "secretRef" in entry else "configMap"
    volumes, changing = {}, {}
    by_name = {v["name"]: v for v in spec.get("volumes") or []}
    for mount in container.get("volumeMounts") or []:
        volume = by_name.get(mount["name"], {})
        point = _clean(mount["mountPath"])
        volumes[point] = _volume_kind(volume)
        changing[point] = _changing(volume)
    image = str(container.get("image", ""))
    return compatibility.Origin(
        image_digest=_digest(image if "@" in image else str(status.get("imageID") or "")),
        variables=variables,
        every_variable=every,
        volumes=volumes,
        changing={point: paths for point, paths in changing.items() if paths},
    )


def _digest(reference: str) -> str:
    """Digest of an image: of its manifest, or marked as `id:`, as of one that a registry never had.

    The kubelet does not report the first until the container has run for about a second.
    """
    repository, _, digest = reference.rpartition("@")
    return digest if repository or not digest else f"id:{digest}"


def _volume_kind(volume: Mapping[str, Any]) -> str:
    """How contents of a volume are compared; see `compatibility.Origin`."""
    if "secret" in volume or "configMap" in volume:
        return "secret" if "secret" in volume else "configMap"
    if "projected" in volume:
        sources = (volume["projected"] or {}).get("sources") or []
        # The API server's own volume: a token, and what belongs to the cluster.
        if str(volume.get("name", "")).startswith("kube-api-access-"):
            return "changing"
        for kind in ("secret", "configMap"):
            if any(kind in source for source in sources):
                return kind
        return "changing"
    if "downwardAPI" in volume:
        return "changing"
    return "node" if {"emptyDir", "hostPath"} & volume.keys() else "shared"


def _changing(volume: Mapping[str, Any]) -> list[str]:
    """Files of a projected volume that are another pod's in another pod."""
    paths = []
    for source in (volume.get("projected") or {}).get("sources") or []:
        for key in ("serviceAccountToken", "clusterTrustBundle", "podCertificate"):
            entry = source.get(key) or {}
            paths += [entry[k] for k in ("path", "keyPath", "certificateChainPath") if k in entry]
        items = (source.get("downwardAPI") or {}).get("items") or []
        paths += [item["path"] for item in items]
    return paths


def _clean(path: str) -> str:
    """A mount path as the kernel shows it, whatever a user writes."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _capture(annotations: Mapping[str, str]) -> dict[str, str]:
    try:
        raw = json.loads(annotations.get(names.ANNOTATION_CAPTURE, "{}"))
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in raw.items()} if isinstance(raw, dict) else {}
