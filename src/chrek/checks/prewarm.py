"""DynamoCheckpoints of the values: can they be made, and who owns those that exist?"""

from __future__ import annotations

import collections
from typing import Any

from chrek import errors, identity, names
from chrek.checks import report, settings
from chrek.kube import workstation

NAME = "prewarm"
WHERE = "dynamo-operator.checkpoint.prewarm"
MANAGER = "chrek-prewarm"
MANAGED_BY = {"app.kubernetes.io/managed-by": "chrek-hooks"}
"""Not Helm's: helm neither adopts nor deletes them."""

Object = dict[str, Any]


def prewarm(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    """Each checkpoint of the values can be made; the API server is asked by a dry run."""
    counts = collections.Counter(f"{one.namespace}/{one.name}" for one in config.prewarm)
    problems = [f"{key}: listed {count} times" for key, count in counts.items() if count > 1]
    untried: list[str] = []
    for wanted in config.prewarm:
        key = f"{wanted.namespace}/{wanted.name}"
        problem = _written(wanted, config)
        if problem:
            problems.append(f"{key}: {problem}")
            continue
        try:
            found = cluster.get(path(wanted))
            if found is not None and not is_ours(found, config):
                untried.append(f"{key}: {foreign(found)}, it is left as it is")
                continue
            cluster.apply(path(wanted), body(wanted, config), manager=MANAGER, dry_run=True)
        except errors.ApiError as err:
            if err.status in (0, 500):
                raise
            # 404: the kind or the namespace is not there, which other checks say.
            if err.status == 404 or "dry run" in err.message:
                untried.append(f"{key}: {err.message}")
            else:
                problems.append(f"{key}: {err.message}")
    if problems:
        return report.failed(NAME, "; ".join(problems), f"correct {WHERE}")
    if untried:
        return report.warning(
            NAME,
            "; ".join(untried),
            "nothing, if that is meant; else choose another name, or see what the message says",
        )
    return report.ok(NAME, f"{len(config.prewarm)} to make")


def path(wanted: settings.Prewarm) -> str:
    return workstation.path(
        names.API_VERSION, names.CHECKPOINT_PLURAL, wanted.namespace, wanted.name
    )


def body(wanted: settings.Prewarm, config: settings.ReleaseConfig) -> Object:
    """The fields of a DynamoCheckpoint that the release owns."""
    annotations = {names.ANNOTATION_PREWARM: "true"} if wanted.everyNode else {}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.CHECKPOINT_KIND,
        "metadata": {
            "name": wanted.name,
            "namespace": wanted.namespace,
            "labels": labels(config),
            "annotations": annotations,
        },
        "spec": wanted.spec,
    }


def labels(config: settings.ReleaseConfig) -> dict[str, str]:
    """Labels that select what the release has made."""
    return {names.LABEL_RELEASE: config.label(), **MANAGED_BY}


def is_ours(found: Object, config: settings.ReleaseConfig) -> bool:
    """Whether the release has made a DynamoCheckpoint."""
    carried = found["metadata"].get("labels") or {}
    return labels(config).items() <= carried.items()


def foreign(found: Object) -> str:
    """Whose a DynamoCheckpoint is that the release has not made."""
    release = (found["metadata"].get("labels") or {}).get(names.LABEL_RELEASE)
    return f"made by release {release}" if release else "exists and was not made by this release"


def _written(wanted: settings.Prewarm, config: settings.ReleaseConfig) -> str:
    """What is wrong with it as it is written; empty when nothing is."""
    if wanted.namespace not in config.watchNamespaces:
        served = ", ".join(config.watchNamespaces)
        return f"namespace {wanted.namespace} is not served; dynamo-operator serves {served}"
    try:
        identity.parse(wanted.spec.get("identity") or {}, "spec.identity")
    except errors.InputError as err:
        return err.message
    if wanted.spec.get("captureSource") == names.CaptureSource.WORKER:
        return ""
    # A CRD of another chart may not say so.
    template = (wanted.spec.get("job") or {}).get("podTemplateSpec") or {}
    if not (template.get("spec") or {}).get("containers"):
        return "spec.job.podTemplateSpec.spec.containers: required, it is what is captured"
    return ""
