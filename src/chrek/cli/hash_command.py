"""`chrek hash`: identity hashes without a cluster.

Nothing here needs a Kubernetes client: a hash is a function of the object's text alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click
import yaml

from chrek import errors, identity, names


@click.command("hash")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--canonical", is_flag=True, help="Print the text that is hashed, not the hash.")
def command(files: tuple[str, ...], canonical: bool) -> None:
    """Print the identity hash of every DynamoCheckpoint and DynamoGraphDeployment in FILE.

    One line each: the hash, two spaces, the name; of a deployment's service `name/service`. Other
    objects are passed over. `-` reads standard input.
    """
    lines: list[str] = []
    problems: list[str] = []
    for file in files:
        found = False
        for where, name, raw in _identities(file):
            found = True
            try:
                parsed = identity.parse(raw, f"{file}: {where}")
            except errors.InputError as err:
                problems.append(err.message)
            else:
                lines.append(f"{parsed.canonical() if canonical else parsed.hash()}  {name}")
        if not found:
            problems.append(f"{file}: no identity in it")
    for line in lines:
        click.echo(line)
    if problems:
        raise errors.InputError(
            "\n".join(problems),
            hint=f"an identity is `spec.identity` of a {names.CHECKPOINT_KIND} or "
            f"`spec.services.<name>.checkpoint.identity` of a {names.GRAPH_KIND}",
        )


def _identities(file: str) -> Iterator[tuple[str, str, Any]]:
    """Yields (path in the object, name to print, identity as written)."""
    for document in _documents(file):
        kind = document.get("kind")
        name = str(_at(document, "metadata").get("name", "unnamed"))
        spec = _at(document, "spec")
        if kind == names.CHECKPOINT_KIND:
            yield f"{name}: spec.identity", name, spec.get("identity")
        elif kind == names.GRAPH_KIND:
            for service, body in _at(spec, "services").items():
                checkpoint = _at(body, "checkpoint")
                if "identity" in checkpoint:
                    where = f"{name}: spec.services.{service}.checkpoint.identity"
                    yield where, f"{name}/{service}", checkpoint["identity"]


def _documents(file: str) -> list[Mapping[str, Any]]:
    try:
        if file == "-":
            text = sys.stdin.read()
        else:
            with open(file, encoding="utf-8") as stream:
                text = stream.read()
        documents = list(yaml.safe_load_all(text))
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or err
        message = f"{file}: cannot be read: {reason}"
        raise errors.InputError(message, hint="give a YAML file") from err
    except yaml.YAMLError as err:
        raise errors.InputError(f"{file}: not YAML: {err}", hint="correct the file") from err
    flat: list[Mapping[str, Any]] = []
    for document in documents:
        if isinstance(document, Mapping):
            listed = document.get("items") if document.get("kind") == "List" else None
            flat += [d for d in (listed or [document]) if isinstance(d, Mapping)]
    return flat


def _at(parent: object, key: str) -> Mapping[str, Any]:
    """The object below `key`, empty when there is none."""
    child = parent.get(key) if isinstance(parent, Mapping) else None
    return child if isinstance(child, Mapping) else {}
