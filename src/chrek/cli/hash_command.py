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
from chrek.cli import completing, printing

_FIELDS = {*identity.Identity.__struct_fields__, *names.IDENTITY_ALIASES}


@click.command("hash")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", shell_complete=completing.files
)
@click.option(
    "--canonical",
    is_flag=True,
    help="Print the text that is hashed: the first 16 hex digits of its SHA-256 are the hash.",
)
@printing.output_option
def command(files: tuple[str, ...], canonical: bool, output: str) -> None:
    """Print the identity hash of every DynamoCheckpoint and DynamoGraphDeployment in FILE.

    FILE is YAML or JSON with any number of documents; `-` reads standard input. A document may be
    an identity itself, a DynamoCheckpoint, a DynamoGraphDeployment, or a List of them as kubectl
    prints it; other objects are passed over.

    One line for each identity: the hash, two spaces, the name. A deployment's service is called
    `name/service`, an identity by itself as its model. -o name prints the hashes alone; json and
    yaml have the canonical text as well.

    \b
    Exit code:
      0  printed
      2  wrong usage
      4  FILE cannot be read, has no identity, or one that cannot be used; the others are printed

    \b
    Example:
      $ cat llama.yaml
      model: meta-llama/Llama-3-8B
      backendFramework: vllm
      dtype: bfloat16
      $ chrek hash llama.yaml
      5941a4cb3c363457  meta-llama/Llama-3-8B
      $ kubectl get dckpt,dgd -o yaml | chrek hash -
    """  # noqa: D301 - click wants the character, not the text
    if canonical and output != "table":
        raise click.UsageError("--canonical is for a table; -o json has that text beside the hash.")
    from chrek.cli import records

    good: list[records.Hashed] = []
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
                good.append(
                    records.Hashed(
                        hash=parsed.hash(), name=name, file=file, canonical=parsed.canonical()
                    )
                )
        if not found:
            problems.append(f"{file}: no identity in it")
    if output == "table":
        for one in good:
            click.echo(one.canonical if canonical else f"{one.hash}  {one.name}")
    else:
        printing.data(output, records.Hashes(identities=good), [one.hash for one in good])
    if problems:
        raise errors.InputError(
            "\n".join(problems),
            hint="an identity is a document with `model` and `backendFramework`, "
            f"`spec.identity` of a {names.CHECKPOINT_KIND} or "
            f"`spec.services.<name>.checkpoint.identity` of a {names.GRAPH_KIND}",
        )


def _identities(file: str) -> Iterator[tuple[str, str, Any]]:
    """Yields (path in the object, name to print, identity as written)."""
    for where, document in _documents(file):
        kind = document.get("kind")
        name = str(_at(document, "metadata").get("name", "unnamed"))
        spec = _at(document, "spec")
        if kind == names.CHECKPOINT_KIND:
            yield f"{name}: spec.identity", name, spec.get("identity")
        elif kind == names.GRAPH_KIND:
            for service, body in _at(spec, "services").items():
                checkpoint = _at(body, "checkpoint")
                if "identity" in checkpoint:
                    path = f"{name}: spec.services.{service}.checkpoint.identity"
                    yield path, f"{name}/{service}", checkpoint["identity"]
        elif kind is None and _FIELDS.intersection(document):
            yield where, str(document.get("model")), document


def _documents(file: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields (which document, document), the items of lists one by one."""
    for number, document in enumerate(_read(file), start=1):
        if not isinstance(document, Mapping):
            continue
        listed = str(document.get("kind", "")).endswith("List")
        items = document.get("items") if listed else [document]
        for item in items if isinstance(items, list) else []:
            if isinstance(item, Mapping):
                yield f"document {number}", item


def _read(file: str) -> list[Any]:
    try:
        if file == "-":
            text = sys.stdin.read()
        else:
            with open(file, encoding="utf-8") as stream:
                text = stream.read()
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or err
        message = f"{file}: cannot be read: {reason}"
        raise errors.InputError(message, hint="give a YAML file") from err
    try:
        return list(yaml.safe_load_all(text))
    # A ValueError: a date or number that looks like one and is none.
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise errors.InputError(f"{file}: not YAML: {err}", hint="correct the file") from err


def _at(parent: object, key: str) -> Mapping[str, Any]:
    """The object below `key`, empty when there is none."""
    child = parent.get(key) if isinstance(parent, Mapping) else None
    return child if isinstance(child, Mapping) else {}
