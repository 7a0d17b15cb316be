"""One Kubernetes cluster: kubectl, and its API through `kubectl proxy`.

The proxy is there because a kubectl call costs 0.1 s and a request through it 2 ms, and because
it reaches pods' ports on any cluster (the API server's pod proxy), also where this machine has
no route to pods.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from showcase import commands, errors

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an HTTP request got."""

    status: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclasses.dataclass
class Cluster:
    """Access to a cluster.

    Attributes:
        kubeconfig: the file that kubectl and helm use.
        own: whether scripts/cluster runs it on this machine.
        proxy_port: port of `kubectl proxy` on 127.0.0.1.
    """

    kubeconfig: Path
    own: bool
    proxy_port: int

    def kubectl(
        self, *args: str, text: str | None = None, check: bool = True, timeout: float = 120
    ) -> str:
        """Run kubectl; returns its stdout, and its stderr too when `check` is false."""
        argv = [commands.find("kubectl"), f"--kubeconfig={self.kubeconfig}", *args]
        done = commands.run(argv, text=text, check=check, timeout=timeout)
        return done.stdout if check else done.stdout + done.stderr

    def helm(self, *args: str, check: bool = True, timeout: float = 600) -> str:
        argv = [commands.find("helm"), f"--kubeconfig={self.kubeconfig}", *args]
        done = commands.run(argv, check=check, timeout=timeout)
        return done.stdout + done.stderr

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        timeout: float = 30,
    ) -> Answer:
        """One request to the API server."""
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy_port, timeout=timeout)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": content_type})
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(errors="replace"))

    def get(self, path: str) -> Object | None:
        """The object at an API path; None when there is none."""
        answer = self.request("GET", path)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise errors.ShowError(f"GET {path}: HTTP {answer.status}: {answer.text[:500]}")
        found: Object = answer.json()
        return found

    def items(self, path: str) -> list[Object]:
        """The objects of a list."""
        found: list[Object] = (self.get(path) or {}).get("items", [])
        return found

    def apply(self, *objects: Mapping[str, Any], namespace: str) -> None:
        """`kubectl apply`."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", f"--namespace={namespace}", "-f", "-", text=text)

    def merge(self, path: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into the object at an API path (or its /status)."""
        answer = self.request("PATCH", path, patch, content_type="application/merge-patch+json")
        if answer.status != 200:
            raise errors.ShowError(f"PATCH {path}: HTTP {answer.status}: {answer.text[:500]}")

    def pod_request(
        self, pod: Object, port: int, path: str, body: object = None, *, timeout: float = 60
    ) -> Answer:
        """A request to a port of a pod, by way of the API server."""
        meta = pod["metadata"]
        target = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}:{port}/proxy{path}"
        return self.request("GET" if body is None else "POST", target, body, timeout=timeout)


@contextlib.contextmanager
def connect(kubeconfig: Path, *, own: bool) -> Iterator[Cluster]:
    """Start the proxy, and stop it at the end."""
    argv = [commands.find("kubectl"), f"--kubeconfig={kubeconfig}", "proxy", "--port=0"]
    # Pod exec stays refused, as it is by default; requests are not rewritten.
    # In a session of its own: after Ctrl-C it is still needed to remove what was made.
    proxy = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert proxy.stdout is not None
        line = proxy.stdout.readline()
        match = re.search(r"127\.0\.0\.1:(\d+)", line)
        if not match:
            raise errors.ShowError(f"kubectl proxy did not start: {line.strip()}")
        cluster = Cluster(kubeconfig=kubeconfig, own=own, proxy_port=int(match[1]))
        answer = cluster.request("GET", "/readyz")
        if answer.status != 200:
            raise errors.ShowError(
                f"the API server of {kubeconfig} is not ready: HTTP {answer.status}: "
                f"{answer.text[:300]}",
                hint="scripts/cluster status" if own else "check KUBECONFIG",
            )
        yield cluster
    finally:
        proxy.terminate()
        proxy.wait()
        if proxy.stdout is not None:
            proxy.stdout.close()


def wait_until(
    ready: Callable[[], Any],
    what: str | Callable[[], str],
    *,
    timeout: float,
    interval: float = 0.2,
) -> Any:
    """Wait until `ready` answers something true, and return that.

    `what` is what is waited for, as the error names it; a function is called when time is up.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = ready()
        if found:
            return found
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            raise errors.ShowError(f"not so after {timeout:.0f} s: {text}")
        time.sleep(interval)


def foreign_kubeconfig() -> Path | None:
    """The user's own cluster: the file that KUBECONFIG names."""
    chosen = os.environ.get("KUBECONFIG", "")
    if not chosen:
        return None
    path = Path(chosen.split(os.pathsep)[0]).expanduser().resolve()
    if not path.exists():
        raise errors.ShowError(
            f"KUBECONFIG names {path}, which does not exist",
            hint="correct it, or unset it for a cluster on this machine",
        )
    return path
