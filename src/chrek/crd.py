"""Whose a CustomResourceDefinition is.

The Dynamo platform's charts define the same kinds. Whoever came first owns them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

API_VERSION = "apiextensions.k8s.io/v1"
PLURAL = "customresourcedefinitions"
LABEL = ("app.kubernetes.io/part-of", "chrek")
"""What our CRDs carry, so that one which another chart manages is told apart."""


def is_foreign(definition: Mapping[str, Any]) -> bool:
    """Whether a CRD came from another chart."""
    key, value = LABEL
    return (definition["metadata"].get("labels") or {}).get(key) != value
