"""Releases of chrek as `chrek doctor` finds them: in a namespace, or in manifests not yet applied.

The chart writes what checks must know into a ConfigMap of each release.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

import chrek
from chrek import cli, errors
from chrek.checks import report, settings
from chrek.cli import reading

Object = dict[str, Any]

LABELS = {"app.kubernetes.io/part-of": "chrek", "app.kubernetes.io/component": "config"}
INSTANCE = "app.kubernetes.io/instance"
"""Label with the name that Helm knows a release by."""
VERSION = "app.kubernetes.io/version"
SETTINGS = "release.yaml"
POD = "agent-pod.yaml"

_SEPARATOR = re.compile(r"^---(?:\s.*)?$", re.MULTILINE)
_CONFIG_MAP = re.compile(r"^kind: *['\"]?ConfigMap", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Release:
    """What is known of a release.

    Attributes:
        name: as `helm list` has it.
        namespace: where it is, or will be.
        config: what checks are told; none when it cannot be read.
        pod: the agent's; none when the release has no agent.
        problem: why there is no config.
    """

    name: str
    namespace: str
    config: settings.ReleaseConfig | None = None
    pod: Object | None = None
    problem: report.Outcome | None = None


def installed(reader: reading.Reader, name: str | None = None) -> list[Release]:
    """The releases of the reader's namespace.

    Args:
        reader: asks the API server.
        name: of the release that is meant, if not all.

    Raises:
        InputError: there is none.
        ApiError: the API server refused or did not answer.
    """
    found = [_release(one) for one in reader.find(reading.CONFIG_MAPS, labels=LABELS)]
    if not found:
        raise _absent(reader)
    return _selected(found, name, f"namespace {reader.namespace}")


def rendered(text: str, where: str, name: str | None = None) -> list[Release]:
    """The releases in what `helm template` or `helm install --dry-run` prints.

    Args:
        text: YAML documents, with whatever else Helm prints.
        where: its name, for messages.
        name: of the release that is meant, if not all.

    Raises:
        InputError: there is none.
    """
    found = [_without_account(_release(one)) for one in _config_maps(text, where)]
    if not found:
        raise errors.InputError(
            f"{where}: no ConfigMap of chrek with {SETTINGS} in it",
            hint="give what `helm template RELEASE charts/chrek -n NAMESPACE -f values.yaml` of "
            f"chrek {chrek.__version__} prints",
        )
    return _selected(found, name, where)


def _config_maps(text: str, where: str) -> Iterator[Object]:
    """The ConfigMaps of releases in a text."""
    # Document by document: Helm's dry run ends with notes, which are no YAML.
    for document in _SEPARATOR.split(text):
        if not _CONFIG_MAP.search(document) or SETTINGS not in document:
            continue
        try:
            found = yaml.safe_load(document)
        # A ValueError: a date or number that looks like one and is none.
        except (yaml.YAMLError, ValueError, RecursionError) as err:
            raise errors.InputError(f"{where}: not YAML: {err}", hint="correct the file") from err
        labels = _at(_at(found, "metadata"), "labels")
        if LABELS.items() <= labels.items() and SETTINGS in _at(found, "data"):
            yield found


def _release(config_map: Object) -> Release:
    metadata, data = config_map["metadata"], _at(config_map, "data")
    labels = _at(metadata, "labels")
    name = str(labels.get(INSTANCE) or metadata["name"])
    namespace = str(metadata.get("namespace") or "default")
    where = f"ConfigMap {namespace}/{metadata['name']}"
    version = str(labels.get(VERSION, "")) or "of an unknown version"
    update = f"run helm upgrade {name} -n {namespace} with the chart of chrek {chrek.__version__}"
    if SETTINGS not in data:
        text = f"{where} has no {SETTINGS}: release {name} is chrek {version}, which had none"
        return Release(name, namespace, problem=report.failed("settings", text, update))
    try:
        config = settings.parse(data[SETTINGS], f"{where}: {SETTINGS}")
        pod = settings.parse_pod(data[POD], f"{where}: {POD}") if data.get(POD) else None
    except errors.ConfigError as err:
        text = f"{err.message}; release {name} is chrek {version}, this is {chrek.__version__}"
        hint = f"{update}, or use the command of the release's version"
        return Release(name, namespace, problem=report.failed("settings", text, hint))
    return Release(name, namespace, config, pod)


def _without_account(release: Release) -> Release:
    """Of what is not installed: its account does not exist, and pods of none are refused."""
    if release.pod is None:
        return release
    spec = {k: v for k, v in release.pod["spec"].items() if k != "serviceAccountName"}
    return dataclasses.replace(release, pod={**release.pod, "spec": spec})


def _selected(found: list[Release], name: str | None, where: str) -> list[Release]:
    chosen = [one for one in found if name in (None, one.name)]
    if chosen:
        return sorted(chosen, key=lambda one: one.name)
    there = ", ".join(sorted(one.name for one in found))
    raise errors.InputError(
        f"{where} has no release {name} of chrek; there are: {there}",
        hint="correct --release, or leave it out to check them all",
    )


def _absent(reader: reading.Reader) -> errors.InputError:
    hint = (
        "name its namespace with -n; before an installation: helm template RELEASE charts/chrek "
        f"-n {reader.namespace} -f values.yaml | {cli.program()} doctor --manifests -"
    )
    # Most may look into their own namespaces only.
    everywhere = reader.of("").look(reading.CONFIG_MAPS, labels=LABELS) or []
    others = sorted({str(one["metadata"]["namespace"]) for one in everywhere})
    there = f"; there are releases in: {', '.join(others)}" if others else ""
    return errors.InputError(
        f"namespace {reader.namespace} has no release of chrek{there}", hint=hint
    )


def _at(parent: object, key: str) -> Mapping[str, Any]:
    """The object below `key`, empty when there is none."""
    child = parent.get(key) if isinstance(parent, Mapping) else None
    return child if isinstance(child, Mapping) else {}
