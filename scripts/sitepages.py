"""Pages of the documentation that are written from the code: Reasons, commands, CRDs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import click

from chrek import cli, reasons

WIDTH = 96
"""Columns of a command's help."""

Schema = dict[str, Any]


def plain(text: str) -> str:
    """One line in which Markdown sees no markup, but code in backquotes stays code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part if part.startswith("`") else re.sub(r"([<*\[\]_])", r"\\\1", part) for part in parts
    )


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def troubleshooting(note: str) -> str:
    lines = [
        f"<!-- {note} src/chrek/reasons.py: edit that file. -->",
        "",
        "# Troubleshooting by Reason",
        "",
        "A Reason is one word, the same wherever it stands: in the pod's log "
        "(`chrek: Falling back to cold start: <Reason>: <message>`), in Events, in the condition "
        "`nvidia.com/Restored` of a pod, in the status of a DynamoCheckpoint and in metrics. "
        "`chrek explain POD` shows it with what to do, and `chrek doctor` looks at the cluster. "
        "CHECKPOINT and POD stand for names of yours.",
        "",
        f"All {len(reasons.TABLE)}, in alphabetical order:",
        "",
        " · ".join(f"[{word}](#{word.lower()})" for word in sorted(map(str, reasons.TABLE))),
    ]
    for reason, advice in reasons.TABLE.items():
        lines += ["", f"## {reason}", "", sentence(plain(advice.meaning))]
        lines += ["", f"**Do:** {plain(advice.action or 'nothing')}."]
    return "\n".join(lines) + "\n"


def commands(note: str) -> str:
    group = cli.main
    assert isinstance(group, click.Group)
    top = click.Context(group, info_name="chrek")
    lines = [
        f"<!-- {note} src/chrek/cli/: edit the commands' help. -->",
        "",
        "# Commands",
        "",
        "What `chrek COMMAND --help` prints. Installed with `pip install .`, each is "
        "`kubectl chrek COMMAND` as well. Exit codes that a command does not list are "
        "[those of all](exit-codes.md).",
        "",
        "| Command | |",
        "|---|---|",
    ]
    found = []
    for name in group.list_commands(top):
        command = group.get_command(top, name)
        assert command is not None
        found.append((name, command))
        first = command.get_short_help_str(limit=200)
        lines.append(f"| [`chrek {name}`](#chrek-{name}) | {plain(first)} |")
    for name, command in found:
        context = click.Context(
            command, info_name=f"chrek {name}", terminal_width=WIDTH, max_content_width=WIDTH
        )
        context.help_option_names = ["-h", "--help"]
        lines += ["", f"## chrek {name}", "", "```text", command.get_help(context), "```"]
    return "\n".join(lines) + "\n"


def fields(node: Schema, path: str = "") -> Iterator[tuple[str, Schema, bool]]:
    """Each field below a node: path, schema, whether it must be given."""
    for key, child in node.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        yield here, child, key in node.get("required", [])
        yield from fields(child, here)
        if isinstance(items := child.get("items"), dict):
            yield from fields(items, here + "[]")
        if isinstance(values := child.get("additionalProperties"), dict):
            yield from fields(values, here + ".*")


def kind(node: Schema) -> str:
    """A field's type as a reader says it."""
    if "enum" in node:
        return ", ".join(f"`{word}`" for word in node["enum"])
    if isinstance(items := node.get("items"), dict):
        return f"list of {kind(items)}"
    if isinstance(values := node.get("additionalProperties"), dict):
        return f"map of {kind(values)}"
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    return str(node.get("type", "anything"))


def meaning(node: Schema, *, required: bool) -> str:
    words = [plain(node["description"])] if "description" in node else []
    if required:
        words.append("Required.")
    if "default" in node:
        words.append(f"Default: `{node['default']}`.")
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None or high is not None:
        words.append(
            f"{low} to {high}." if low is not None and high is not None
            else f"At least {low}." if high is None else f"At most {high}."
        )  # fmt: skip
    rules = node.get("x-kubernetes-validations", [])
    words += [f"Checked: {plain(rule['message'])}." for rule in rules]
    return " ".join(words).replace("|", "\\|")


def resources(note: str, definitions: Mapping[str, Schema]) -> str:
    """`definitions`: file below schemas/ -> CustomResourceDefinition."""
    lines = [
        f"<!-- {note} schemas/*.crd.yaml: edit those files. -->",
        "",
        "# Custom resources",
        "",
        "`[]` stands for an item of a list, `*` for a key of a map. What the API server keeps "
        "without looking into it, such as a pod's spec, is not spelled out.",
    ]
    for definition in definitions.values():
        spec = definition["spec"]
        names = spec["names"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            short = ", ".join(f"`{name}`" for name in names["shortNames"])
            lines += [
                "",
                f"## {names['kind']}",
                "",
                f"{plain(schema['description'])} `apiVersion: {spec['group']}/{version['name']}`, "
                f"{spec['scope'].lower()}, `kubectl get {names['plural']}` or {short}.",
            ]
            columns = version.get("additionalPrinterColumns", [])
            shown = [f"`{c['name']}`" for c in columns if not c.get("priority")]
            wide = [f"`{c['name']}`" for c in columns if c.get("priority")]
            if shown:
                more = f"; with `-o wide` also {', '.join(wide)}" if wide else ""
                lines += ["", f"Columns: {', '.join(shown)}{more}."]
            for part in ("spec", "status"):
                lines += ["", f"### {part} of a {names['kind']}", ""]
                lines += ["| Field | Type | Meaning |", "|---|---|---|"]
                for path, node, required in fields(schema["properties"].get(part, {})):
                    text = meaning(node, required=required)
                    lines.append(f"| `{path}` | {kind(node)} | {text} |")
    return "\n".join(lines) + "\n"
