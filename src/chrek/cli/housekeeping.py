"""What `chrek prune --dry-run` tells: what housekeeping would remove, or a deletion, and why.

Read from the API server alone, by whoever may read there. The rules are the operator's own.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import yaml

from chrek import config, errors, identity, names, state, variant
from chrek import store as stores
from chrek.cli import reading, records
from chrek.kube import workstation
from chrek.operator import conditions, pods, templates, workloads
from chrek.operator import housekeeping as rules

Object = dict[str, Any]

_LABELS = {"app.kubernetes.io/part-of": "chrek", "app.kubernetes.io/component": "config"}
_FILE = "operator.yaml"
_DURATION = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Release(msgspec.Struct, frozen=True):
    """What is read of a release's configuration, whatever its version."""

    watchNamespaces: list[str]  # noqa: N815 - spelled as in the file
    kind: str = ""
    housekeeping: config.Housekeeping = config.Housekeeping()
    deletionJobPath: str = ""  # noqa: N815 - the same

    @property
    def deletes(self) -> bool:
        """Whether artifacts can be deleted; only an operator's configuration may say no."""
        return bool(self.deletionJobPath) or self.kind != "OperatorConfig"


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        namespace: of the checkpoints that are shown; None for all of the release's.
        release_namespace: where the release is; None for `namespace`.
        config_path: its configuration, instead of that in the cluster.
        max_bytes: a quantity that takes the place of its quota.
        unused_for: a duration that takes the place of its own.
    """

    namespace: str | None = None
    release_namespace: str | None = None
    config_path: pathlib.Path | None = None
    max_bytes: str | None = None
    unused_for: str | None = None


def planned(reader: reading.Reader, question: Question, now: datetime.datetime) -> records.Pruning:
    """What housekeeping would remove.

    Raises:
        InputError, ConfigError: the settings are not to be had, or cannot be used.
        ApiError: the API server refused or did not answer.
    """
    release = _release(reader, question)
    settings = release.housekeeping
    if question.max_bytes is not None:
        settings = msgspec.structs.replace(settings, maxBytes=_bytes(question.max_bytes))
    if question.unused_for is not None:
        settings = msgspec.structs.replace(settings, unusedSeconds=_seconds(question.unused_for))
    found: list[rules.Artifact] = []
    reserved = 0
    for namespace in release.watchNamespaces:
        for same, users in _identities(reader.of(namespace)):
            there = rules.artifacts(same, users, now=now, deletes=release.deletes)
            found += there
            reserved += rules.running(same) * rules.expected_bytes(there)
    plan = rules.plan(found, settings, now=now, reserved_bytes=reserved)
    shown = [one for one in plan.removals if question.namespace in (None, one.artifact.namespace)]
    return records.Pruning(
        removals=[_removal(one.artifact, one.why) for one in shown],
        artifacts=len(plan.removals),
        bytes=plan.used_bytes - plan.left_bytes,
        left_bytes=plan.left_bytes,
        max_bytes=settings.maxBytes,
        unused_seconds=settings.unusedSeconds,
        over_bytes=plan.over_bytes(settings),
        kept=_kept(found),
    )


def deletion(
    reader: reading.Reader, paths: Sequence[str], now: datetime.datetime
) -> records.Pruning:
    """What a deletion of these paths would remove.

    Args:
        reader: of the checkpoints' namespace.
        paths: `<hash>`, `<hash>/<variant>` or `<hash>/<variant>/<uuid>`.
        now: the time, in UTC.

    Raises:
        InputError: a path is none.
        ApiError: the API server refused or did not answer.
    """
    wanted = [stores.parse_path(path) for path in paths]
    gone: list[records.Removal] = []
    for same, users in _identities(reader):
        for one in rules.artifacts(same, users, now=now):
            place = (one.identity_hash, one.variant, one.uuid)
            for path, parts in zip(paths, wanted, strict=True):
                if all(part in ("", mine) for part, mine in zip(parts, place, strict=True)):
                    warning = f"; note: {one.kept}" if one.kept else ""
                    gone.append(_removal(one, f"deletion of {path}{warning}"))
                    break
    return records.Pruning(
        removals=gone,
        artifacts=len(gone),
        bytes=sum(one.bytes for one in gone),
        left_bytes=None,
        max_bytes=0,
        unused_seconds=0,
        over_bytes=0,
        kept=[],
    )


def _removal(one: rules.Artifact, why: str) -> records.Removal:
    return records.Removal(
        namespace=one.namespace,
        checkpoint=one.checkpoint,
        path=f"{one.identity_hash}/{one.variant}/{one.uuid}",
        bytes=one.bytes,
        last_used_at=conditions.timestamp(one.used_at),
        why=why,
    )


def _kept(found: Iterable[rules.Artifact]) -> list[records.Kept]:
    sizes: dict[str, list[int]] = collections.defaultdict(list)
    for one in found:
        if one.kept:
            sizes[one.kept].append(one.bytes)
    return [
        records.Kept(artifacts=len(kept), bytes=sum(kept), why=str(why))
        for why, kept in sorted(sizes.items())
    ]


def _release(reader: reading.Reader, question: Question) -> Release:
    if question.config_path:
        try:
            return _decoded(question.config_path.read_text(), str(question.config_path))
        except (OSError, UnicodeDecodeError) as err:
            raise errors.ConfigError(
                f"{question.config_path}: {err}", hint="give the operator's configuration"
            ) from err
    namespace = question.release_namespace or reader.namespace
    found = {
        item["metadata"]["name"]: item["data"][_FILE]
        for item in reader.of(namespace).find(reading.CONFIG_MAPS, labels=_LABELS)
        if _FILE in (item.get("data") or {})
    }
    if len(found) > 1:
        raise errors.InputError(
            f"namespace {namespace} has several releases: {', '.join(sorted(found))}",
            hint=f"write the key {_FILE} of one of these ConfigMaps to a file, and name it with "
            "--config",
        )
    for name, text in found.items():
        return _decoded(text, f"ConfigMap {namespace}/{name}: {_FILE}")
    if question.max_bytes is None and question.unused_for is None:
        raise errors.InputError(
            f"namespace {namespace} has no release of chrek with an operator",
            hint="name its namespace with --release-namespace, or give --max-bytes or --unused-for",
        )
    return Release(watchNamespaces=[namespace])


def _decoded(text: str, source: str) -> Release:
    try:
        return msgspec.convert(yaml.safe_load(text), Release)
    except (yaml.YAMLError, msgspec.ValidationError) as err:
        raise errors.ConfigError(f"{source}: {err}", hint="the chart writes it") from err


def _bytes(text: str) -> int:
    found = int(workstation.quantity(text))
    if found < 0:
        raise errors.InputError(f"--max-bytes {text}: below 0", hint="0 means no quota")
    return found


def _seconds(text: str) -> int:
    matched = _DURATION.fullmatch(text)
    if matched:
        return int(matched[1]) * _UNITS[matched[2]]
    if text == "0":
        return 0
    raise errors.InputError(
        f"--unused-for {text}: no duration", hint="write it like 30d, 720h, 90m or 45s"
    )


def _identities(reader: reading.Reader) -> Iterator[tuple[list[Object], rules.Users]]:
    """The checkpoints of each identity of a namespace, and who uses their artifacts."""
    by_hash: dict[str, list[Object]] = collections.defaultdict(list)
    for item in reader.find(reading.CHECKPOINTS):
        try:
            raw = (item.get("spec") or {}).get("identity") or {}
            digest = identity.parse(raw).hash()
        except errors.InputError:
            continue
        by_hash[digest].append({**item, "status": state.status_of(item)})
    if not by_hash:
        return
    workers = collections.defaultdict(list)
    for item in reader.find(reading.PODS, labels={names.LABEL_MANAGED: "true"}):
        pod = pods.project(item)
        workers[pod.reference].append(pod)
    graphs = _graphs(reader)
    named = {reference for graph in graphs for reference in workloads.references(graph)}
    wanted = _wanted(graphs)
    for digest, same in by_hash.items():
        references = {digest, *(item["metadata"]["name"] for item in same)}
        asked = [_variant(template, same) for template in wanted.get(digest, ())]
        yield (
            same,
            rules.users(
                (pod for reference in references for pod in workers.get(reference, ())),
                asked=asked,
                graph=bool(references & named),
                known="" not in asked,
            ),
        )


def _graphs(reader: reading.Reader) -> list[Object]:
    try:
        return reader.find(reading.GRAPHS)
    except errors.ApiError as err:
        if err.status == 404:
            return []
        raise


def _wanted(graphs: Iterable[Object]) -> dict[str, list[Object]]:
    """Identity hash -> templates of the pods of graphs that ask for it by its identity."""
    found = collections.defaultdict(list)
    for graph in graphs:
        for name, service in ((graph.get("spec") or {}).get("services") or {}).items():
            if not isinstance(service, Mapping):
                continue
            try:
                wish = workloads.wish(service, name)
                if wish is None or wish.known is None:
                    continue
                template = workloads.template(graph["metadata"]["name"], name, service)
            except errors.InputError:
                continue  # It gets no pods.
            found[wish.reference].append(template)
    return found


def _variant(template: Object, same: Sequence[Object]) -> str:
    """The variant of a service's pods; its image's registry is not asked."""
    container = template["spec"]["containers"][0]
    if container.get("command"):
        return variant.of_container(container)
    for checkpoint in same:
        with contextlib.suppress(errors.UnsupportedError):
            captured = templates.as_captured(template, checkpoint)
            return variant.of_container(captured["spec"]["containers"][0])
    return ""
