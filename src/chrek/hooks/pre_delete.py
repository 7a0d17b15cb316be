"""Before an uninstallation: nothing stays behind that only the operator could take away.

The operator is stopped first, so that it puts nothing back. Then the finalizer goes from every
DynamoCheckpoint, so that these and their namespaces can be deleted later on; captures and deletions
under way end. DynamoCheckpoints, and the store with the artifacts, stay: an installation finds them
again. What is on nodes goes when the agents are gone (`chrek.hooks.post_delete`). Idempotent; every
wait is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from chrek import errors, names
from chrek.checks import report, settings
from chrek.hooks import program
from chrek.kube import workstation

OPERATOR_SECONDS = 60.0
"""A stopping operator has 30 seconds; then the kubelet kills it."""
DEADLINE_SECONDS = 200.0
"""Of the whole; the Job's own is a little longer."""
POLL_SECONDS = 0.5
ROUNDS = 5
"""Somebody else may write an object at the same moment."""

CAPTURES = {names.LABEL_SOURCE: "true", "app.kubernetes.io/managed-by": "chrek-operator"}
DELETIONS = {names.LABEL_DELETION: "true"}

Object = dict[str, Any]


def clean_up(context: program.Context) -> Sequence[report.Outcome]:
    """Stop the operator and take away what it would have taken away."""
    cluster, config = context.cluster, context.config
    deadline = time.monotonic() + DEADLINE_SECONDS
    outcomes = [stop_operator(cluster, config)] if config.operatorName else []
    kept: dict[str, int] = {}
    for namespace in config.watchNamespaces:
        try:
            outcomes.append(stop_captures(cluster, namespace))
            count, outcome = release(cluster, namespace, deadline)
            kept[namespace] = count
            outcomes.append(outcome)
        except errors.ApiError as err:
            if err.status != 403:
                raise
            # The release's Role went with the namespace.
            outcomes.append(
                report.warning(
                    f"namespace {namespace}",
                    err.message,
                    f"if the namespace exists: {_by_hand(namespace, '<name>')}",
                )
            )
    outcomes += [own_objects(cluster, config), told(config, kept)]
    return outcomes


def stop_operator(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    """Scale the operator to nothing and wait until its pods are gone."""
    name = "operator"
    path = workstation.path("apps/v1", "deployments", config.namespace, config.operatorName)
    if not _merge(cluster, f"{path}/scale", {"spec": {"replicas": 0}}):
        return report.ok(name, f"Deployment {config.operatorName}: not there")
    pods = workstation.path("v1", "pods", config.namespace)
    deadline = time.monotonic() + OPERATOR_SECONDS
    while left := cluster.find(pods, labels=config.operatorLabels):
        if time.monotonic() >= deadline:
            listed = ", ".join(pod["metadata"]["name"] for pod in left)
            return report.warning(
                name,
                f"still there after {OPERATOR_SECONDS:g} s: {listed}",
                "see whether their nodes are up; until then they may put finalizers back",
            )
        time.sleep(POLL_SECONDS)
    return report.ok(name, "stopped")


def stop_captures(cluster: workstation.Cluster, namespace: str) -> report.Outcome:
    """Delete the capture Jobs that are not finished."""
    path = workstation.path("batch/v1", "jobs", namespace)
    running = [
        job["metadata"]["name"]
        for job in _find(cluster, path, labels=CAPTURES)
        if _of_a_checkpoint(job) and not _finished(job)
    ]
    for name in running:
        cluster.delete(f"{path}/{name}")
    return report.ok(f"captures in {namespace}", f"{len(running)} stopped")


def release(
    cluster: workstation.Cluster, namespace: str, deadline: float
) -> tuple[int, report.Outcome]:
    """Take the finalizer off every DynamoCheckpoint of a namespace.

    Returns:
        How many DynamoCheckpoints stay, and the outcome.
    """
    name = f"checkpoints in {namespace}"
    path = workstation.path(names.API_VERSION, names.CHECKPOINT_PLURAL, namespace)
    refused: dict[str, str] = {}
    released: set[str] = set()
    for _ in range(ROUNDS):
        every = _find(cluster, path)
        held = [item for item in every if names.FINALIZER in _finalizers(item)]
        if not held:
            staying = [item for item in every if not item["metadata"].get("deletionTimestamp")]
            text = f"finalizer taken off {len(released)} of {len(every)}"
            return len(staying), report.ok(name, text)
        for item in held:
            key = item["metadata"]["name"]
            try:
                if time.monotonic() >= deadline:
                    raise errors.ChrekError("no time left")
                _take_off(cluster, path, item)
                released.add(key)
            except errors.ChrekError as err:
                if isinstance(err, errors.ApiError) and err.status in (0, 500):
                    raise
                refused[key] = err.message
    first = held[0]["metadata"]["name"]
    return len(every), report.failed(
        name,
        f"{len(held)} keep their finalizer, {first} among them: {refused.get(first, 'put back')}",
        f"for each of them: {_by_hand(namespace, first)}",
    )


def own_objects(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    """What operator, agents and helm made in the release's namespace and would leave there."""
    jobs = workstation.path("batch/v1", "jobs", config.namespace)
    leases = workstation.path("coordination.k8s.io/v1", "leases", config.namespace)
    pods = workstation.path("v1", "pods", config.namespace)
    # A deletion that is stopped has done no harm; a sweep finishes it.
    wanted = [f"{jobs}/{job['metadata']['name']}" for job in _find(cluster, jobs, labels=DELETIONS)]
    wanted += [
        f"{leases}/{lease['metadata']['name']}"
        for lease in _find(cluster, leases)
        if lease["metadata"]["name"].startswith(f"{config.release}.")
    ]
    if config.testPodName:
        # It stays after `helm test` for its log, and helm does not delete it.
        wanted.append(f"{pods}/{config.testPodName}")
    gone = sum(cluster.delete(path) for path in wanted)
    return report.ok("leftovers", f"{gone} deleted: deletion Jobs, Leases, pod of helm test")


def told(config: settings.ReleaseConfig, kept: Mapping[str, int]) -> report.Outcome:
    """What stays, and how to remove it."""
    where, last = _store(config)
    text = f"{sum(kept.values())} DynamoCheckpoints, artifacts in {where}"
    commands = [
        f"kubectl delete {names.CHECKPOINT_PLURAL} --all -n {namespace}"
        for namespace, count in kept.items()
        if count
    ]
    commands.append(last)
    hint = f"they are found again by the next installation; to remove them: {'; '.join(commands)}"
    return report.Outcome("kept", report.Status.OK, text, hint)


def _store(config: settings.ReleaseConfig) -> tuple[str, str]:
    """Where artifacts are, and how to remove them all."""
    store = config.store
    if isinstance(store, settings.Server):
        return store.uri, f"what is below {store.uri}, with a client of that server"
    where = f"claim {config.namespace}/{store.name}"
    return where, f"kubectl delete pvc {store.name} -n {config.namespace}"


def _take_off(cluster: workstation.Cluster, path: str, item: Object) -> None:
    metadata = item["metadata"]
    body = {
        "metadata": {
            # Finalizers that others add meanwhile must not be lost.
            "resourceVersion": metadata["resourceVersion"],
            "finalizers": [f for f in _finalizers(item) if f != names.FINALIZER],
        }
    }
    _merge(cluster, f"{path}/{metadata['name']}", body)


def _merge(cluster: workstation.Cluster, path: str, body: Object) -> bool:
    """Merge patch; whether the object was there."""
    try:
        cluster.request("PATCH", path, body=body, content_type="application/merge-patch+json")
    except errors.ApiError as err:
        if err.status == 404:
            return False
        raise
    return True


def _find(
    cluster: workstation.Cluster, path: str, *, labels: Mapping[str, str] | None = None
) -> list[Object]:
    """A collection; empty when the API server does not know the kind (any longer)."""
    try:
        return cluster.find(path, labels=labels)
    except errors.ApiError as err:
        if err.status == 404:
            return []
        raise


def _finalizers(item: Object) -> list[str]:
    return list(item["metadata"].get("finalizers") or [])


def _of_a_checkpoint(job: Object) -> bool:
    owners = job["metadata"].get("ownerReferences") or []
    return any(
        owner["kind"] == names.CHECKPOINT_KIND
        and owner["apiVersion"].partition("/")[0] == names.GROUP
        for owner in owners
    )


def _finished(job: Object) -> bool:
    return any(workstation.is_true(job, kind) for kind in ("Complete", "Failed"))


def _by_hand(namespace: str, name: str) -> str:
    patch = '[{"op":"remove","path":"/metadata/finalizers"}]'
    return f"kubectl patch {names.CHECKPOINT_PLURAL} {name} -n {namespace} --type=json -p '{patch}'"


main = program.command(
    clean_up,
    title="pre-delete",
    again="run helm uninstall {release} -n {namespace} again, or with --no-hooks to leave the rest",
)
