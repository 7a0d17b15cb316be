"""The API client of the agent and of the operator: one import for everything they use.

    client = api.Client(api.credentials())
    pods = api.Informer(client, api.path("v1", "pods", namespace=ns), project=..., on_change=...)
    task = asyncio.create_task(pods.run())
    await pods.synced.wait()
    await client.patch("v1", "pods", ns, name, [{"op": "add", ...}], kind="json")
    await api.post_event(client, regarding=api.reference(pod), type_="Normal", ...)

Failures are `errors.ApiError` with `status`: the HTTP status, 0 when the server did not answer.
"""

from __future__ import annotations

from chrek.kube.client import Client, PatchKind, path
from chrek.kube.credentials import Credentials, credentials
from chrek.kube.event import post_event, reference
from chrek.kube.informer import Informer
from chrek.kube.persistence import persist

__all__ = [
    "Client",
    "Credentials",
    "Informer",
    "PatchKind",
    "credentials",
    "path",
    "persist",
    "post_event",
    "reference",
]
