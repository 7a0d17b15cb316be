"""A client of the API server, as much of one as the cluster's own parts need."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devcluster import addresses, errors

Object = dict[str, Any]
FIELD_MANAGER = "devcluster"


class ApiError(errors.ClusterError):
    """An answer of the API server that is not a success."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"{method} {path}: HTTP {status}: {text[:256]}")
        self.status = status


class Client:
    """Requests to the API server in the name of one certificate."""

    def __init__(self, pki: Path, user: str) -> None:
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(pki / f"{user}.crt", pki / f"{user}.key")

    def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
        timeout_seconds: float = 10.0,
    ) -> Object:
        """Send one request and return the answer's object.

        Raises:
            ApiError: the server refused.
            OSError: the server cannot be reached.
        """
        connection = self._connect(timeout_seconds)
        try:
            self._send(connection, method, path, body, content_type)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except http.client.HTTPException as err:
            raise ConnectionError(f"{method} {path}: {err!r}") from err
        finally:
            connection.close()
        if answer.status >= 300:
            raise ApiError(method, path, answer.status, text)
        try:
            parsed = json.loads(text)
        except ValueError:
            return {"text": text}
        return parsed if isinstance(parsed, dict) else {"value": parsed}

    def get(self, path: str) -> Object:
        return self.request("GET", path)

    def apply(self, path: str, wanted: Object) -> Object:
        """Create the object or bring it to the wanted state, by server-side apply."""
        target = f"{path}/{wanted['metadata']['name']}?fieldManager={FIELD_MANAGER}&force=true"
        return self.request("PATCH", target, wanted, content_type="application/apply-patch+yaml")

    def healthy(self) -> bool:
        """Whether the API server says that it is ready."""
        try:
            self.request("GET", "/readyz", timeout_seconds=2.0)
        except (OSError, ApiError):
            return False
        return True

    def watch(self, path: str, version: str, timeout_seconds: int = 60) -> Iterator[Object]:
        """The events of a list from a resource version on, until the server ends the watch."""
        connection = self._connect(timeout_seconds + 15.0)
        query = f"watch=1&resourceVersion={version}&timeoutSeconds={timeout_seconds}"
        try:
            self._send(connection, "GET", f"{path}?{query}", None, "application/json")
            answer = connection.getresponse()
            if answer.status >= 300:
                text = answer.read().decode(errors="replace")
                raise ApiError("WATCH", path, answer.status, text)
            for line in answer:
                yield json.loads(line)
        except http.client.HTTPException as err:
            raise ConnectionError(f"WATCH {path}: {err!r}") from err
        finally:
            connection.close()

    def _connect(self, timeout_seconds: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            addresses.HOST, addresses.API_PORT, timeout=timeout_seconds, context=self._tls
        )

    @staticmethod
    def _send(
        connection: http.client.HTTPSConnection,
        method: str,
        path: str,
        body: Object | None,
        content_type: str,
    ) -> None:
        payload = None if body is None else json.dumps(body)
        headers = {"Accept": "application/json", "Content-Type": content_type}
        connection.request(method, path, body=payload, headers=headers)
