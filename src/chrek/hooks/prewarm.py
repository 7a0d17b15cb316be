"""Makes the DynamoCheckpoints of the values, and deletes those that left them.

Each is applied server-side, by a manager of its own: one that is as it should be is not written.
What the release has made carries its label; what does not is never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chrek import errors, names
from chrek.checks import prewarm as prewarm_checks
from chrek.checks import report, settings
from chrek.kube import workstation

Object = dict[str, Any]


def write(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> list[report.Outcome]:
    """Make them so; an outcome each. Without an operator nobody would capture or delete them."""
    if not config.operatorName:
        return []
    outcomes = []
    for wanted in config.prewarm:
        try:
            outcomes.append(_make(cluster, config, wanted))
        except errors.ApiError as err:
            hint = f"correct {prewarm_checks.WHERE}; what may not change needs another name"
            outcomes.append(_refused(_name(wanted.namespace, wanted.name), err, hint))
    for namespace in config.watchNamespaces:
        try:
            outcomes += _remove(cluster, config, namespace)
        except errors.ApiError as err:
            # Without the kind there is nothing of it.
            if err.status != 404:
                hint = f"see kubectl get role {config.release}-hooks -n {namespace}"
                outcomes.append(_refused(f"prewarm in {namespace}", err, hint))
    return outcomes


def _make(
    cluster: workstation.Cluster, config: settings.ReleaseConfig, wanted: settings.Prewarm
) -> report.Outcome:
    name, path = _name(wanted.namespace, wanted.name), prewarm_checks.path(wanted)
    found = cluster.get(path)
    if found is not None and not prewarm_checks.is_ours(found, config):
        return report.warning(
            name,
            f"{prewarm_checks.foreign(found)}, left as it is",
            f"nothing, if that one will do; else choose another name in {prewarm_checks.WHERE}",
        )
    if found is not None and found["metadata"].get("deletionTimestamp"):
        return report.warning(
            name,
            "is being deleted",
            f"run helm upgrade {config.helmRelease} -n {config.namespace} again once it is gone",
        )
    body = prewarm_checks.body(wanted, config)
    made = cluster.apply(path, body, manager=prewarm_checks.MANAGER)
    if found is None:
        return report.ok(name, "created")
    same = found["metadata"].get("resourceVersion") == made["metadata"].get("resourceVersion")
    return report.ok(name, "unchanged" if same else "changed")


def _remove(
    cluster: workstation.Cluster, config: settings.ReleaseConfig, namespace: str
) -> Iterator[report.Outcome]:
    """Those of a namespace that the values do not list any longer."""
    wanted = {one.name for one in config.prewarm if one.namespace == namespace}
    path = workstation.path(names.API_VERSION, names.CHECKPOINT_PLURAL, namespace)
    for found in cluster.find(path, labels=prewarm_checks.labels(config)):
        key = found["metadata"]["name"]
        if key in wanted or found["metadata"].get("deletionTimestamp"):
            continue
        name = _name(namespace, key)
        if found["spec"].get("deletionPolicy") == names.DeletionPolicy.RETAIN:
            # It is found again when the values list it again.
            yield report.ok(name, "no longer listed; kept, since its deletionPolicy is Retain")
            continue
        cluster.delete(f"{path}/{key}")
        yield report.ok(name, "no longer listed; removed")


def _refused(name: str, err: errors.ApiError, hint: str) -> report.Outcome:
    """What the API server does not want; that it does not work ends the program."""
    if err.status in (0, 500):
        raise err
    return report.failed(name, err.message, hint)


def _name(namespace: str, name: str) -> str:
    return f"prewarm {namespace}/{name}"
