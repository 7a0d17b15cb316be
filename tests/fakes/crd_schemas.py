"""The schemas of our CRDs, which refuse what the API server would drop without a word."""

from __future__ import annotations

import pathlib
from typing import Any

import yaml

SCHEMAS = pathlib.Path(__file__).resolve().parents[2] / "schemas"


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    made = {key: _strict(part) for key, part in node.items()}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        unknown = node.get("x-kubernetes-preserve-unknown-fields", False)
        made.setdefault("additionalProperties", unknown)
    return made


def _schemas() -> dict[str, Any]:
    found = {}
    for path in sorted(SCHEMAS.glob("*.crd.yaml")):
        crd = yaml.safe_load(path.read_text())
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        found[crd["spec"]["names"]["kind"]] = _strict(schema)
    return found


STRICT = _schemas()
"""Kind -> JSON schema."""
