"""Checks of the cluster and of the namespace, before anything of the release exists.

Each check takes the connection and the settings and answers with an outcome; each is named like its
function. What a release makes itself (its claim's files, its pods) is looked at afterwards, in
`rollout`.
"""

from __future__ import annotations

import json
from typing import Any

from chrek import crd, errors, identity, names
from chrek.checks import report, settings
from chrek.kube import workstation

OLDEST = (1, 29)
"""Of Kubernetes; `kubeVersion` in Chart.yaml says the same."""


def kubernetes_version(cluster: workstation.Cluster, _: settings.ReleaseConfig) -> report.Outcome:
    """The API server is new enough."""
    name = "kubernetes-version"
    version = json.loads(cluster.request("GET", "/version"))
    text = str(version.get("gitVersion", ""))
    digits = ["".join(filter(str.isdigit, str(version.get(k, "")))) for k in ("major", "minor")]
    if not all(digits):
        return report.warning(name, f"cannot read {text!r}", "make sure that it is 1.29 or later")
    if tuple(map(int, digits)) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return report.failed(name, text, f"upgrade the cluster to {oldest} or later")
    return report.ok(name, text)


def namespaces(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    """Each namespace that is to be served exists."""
    name = "namespaces"
    missing = [
        namespace
        for namespace in config.watchNamespaces
        if cluster.get(workstation.path("v1", "namespaces", name=namespace)) is None
    ]
    if missing:
        create = " && ".join(f"kubectl create namespace {namespace}" for namespace in missing)
        return report.failed(
            name,
            f"{', '.join(missing)}: not found",
            f"run {create}, or take it out of dynamo-operator.watchNamespaces",
        )
    return report.ok(name, ", ".join(config.watchNamespaces))


def crds(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    """The kinds that chrek serves exist, in a version that it knows."""
    name = "crds"
    foreign: list[str] = []
    for crd_name in config.crds:
        found = cluster.get(crd_path(crd_name))
        if found is None:
            return report.failed(
                name,
                f"{crd_name}: not found",
                "run helm upgrade, whose hook applies them, or kubectl apply --server-side -f "
                "files/crds/",
            )
        if not serves(found):
            return report.failed(
                name,
                f"{crd_name}: version {names.VERSION} is not served",
                serving_hint(found),
            )
        if crd.is_foreign(found):
            foreign.append(f"{crd_name} by {owner(found)}")
    if foreign:
        return report.warning(
            name,
            f"managed elsewhere: {', '.join(foreign)}",
            "nothing; chrek leaves them alone, and its own fields in them may be pruned",
        )
    return report.ok(name, ", ".join(config.crds))


def crd_path(name: str = "") -> str:
    return workstation.path(crd.API_VERSION, crd.PLURAL, name=name)


def serves(definition: dict[str, Any]) -> bool:
    """Whether a CRD serves the version that chrek knows."""
    return any(
        version["name"] == names.VERSION and version["served"]
        for version in definition["spec"]["versions"]
    )


def serving_hint(definition: dict[str, Any]) -> str:
    """What to do about a CRD that does not serve it."""
    return f"upgrade what installed it, {owner(definition)}, to a version that serves it"


def owner(definition: dict[str, Any]) -> str:
    """Who manages a CRD, as well as it can be told."""
    metadata = definition["metadata"]
    annotations = metadata.get("annotations") or {}
    release = annotations.get("meta.helm.sh/release-name")
    if release:
        return f"helm release {annotations.get('meta.helm.sh/release-namespace', '')}/{release}"
    managers = [entry.get("manager", "") for entry in metadata.get("managedFields") or []]
    return next((f"{m!r}" for m in managers if m and m != "kube-apiserver"), "somebody else")


def identities(_: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    """The identities of the values can be hashed."""
    name = "identities"
    where = "dynamo-operator.checkpoint.identities"
    try:
        for index, raw in enumerate(config.identities):
            identity.parse(raw, f"{where}[{index}]")
    except errors.InputError as err:
        return report.failed(name, err.message, "correct the values")
    return report.ok(name, f"{len(config.identities)} to hash")


def pod_security(
    cluster: workstation.Cluster, pod: dict[str, Any], *, namespace: str
) -> report.Outcome:
    """The namespace admits the agent's pod, asked by a dry run of the very pod."""
    name = "pod-security"
    # Whether there is such a RuntimeClass is a check of its own. Admission would only speak of that
    # and of nothing else.
    spec = {key: value for key, value in pod["spec"].items() if key != "runtimeClassName"}
    metadata = {**pod["metadata"], "generateName": "chrek-preflight-"}
    body = {**pod, "metadata": metadata, "spec": spec}
    try:
        cluster.create(workstation.path("v1", "pods", namespace), body, dry_run=True)
    except errors.ApiError as err:
        if err.status in (0, 500):
            raise
        if "violates PodSecurity" in err.message:
            hint = (
                f"run kubectl label namespace {namespace} "
                "pod-security.kubernetes.io/enforce=privileged --overwrite"
            )
        elif "exceeded quota" in err.message or "failed quota" in err.message:
            hint = f"raise the quota of namespace {namespace}, or set agent.resources to fit it"
        else:
            hint = f"make namespace {namespace} admit the agent, or correct what the message names"
        return report.failed(name, err.message, hint)
    return report.ok(name, f"namespace {namespace} admits the agent")
