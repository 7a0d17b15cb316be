"""What a request to the API server does, in the words of RBAC: for metrics."""

from __future__ import annotations

VERBS = {
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
    "WATCH": "watch",
    "DRY-RUN": "dry-run",
}


def of(method: str, path: str) -> tuple[str, str]:
    """The verb, and `pods` or `pods/status`.

    Args:
        method: of HTTP, or `WATCH`, or `DRY-RUN` for what the server only checks.
        path: of the URL.
    """
    parts = path.strip("/").split("/")
    parts = parts[2 if parts[0] == "api" else 3 :]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    verb = VERBS.get(method) or ("get" if len(parts) > 1 else "list")
    return verb, "/".join([*parts[:1], *parts[2:3]])
