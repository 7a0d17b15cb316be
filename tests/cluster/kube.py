"""kubectl against the development cluster, from tests."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

from devcluster import cache

Object = dict[str, Any]


class RefusedError(Exception):
    """kubectl ended with an error; the text is what it said."""


class Kube:
    """The cluster through one namespace."""

    def __init__(self, where: cache.Cache, *, namespace: str) -> None:
        self.where = where
        self.namespace = namespace

    def argv(self, *words: str) -> list[str]:
        return [
            os.fspath(self.where.bin / "kubectl"),
            f"--kubeconfig={self.where.kubeconfig}",
            f"--namespace={self.namespace}",
            *words,
        ]

    def kubectl(self, *words: str, text: str | None = None) -> str:
        """Run kubectl and return its output.

        Raises:
            RefusedError: it ended with an error.
        """
        done = subprocess.run(
            self.argv(*words), input=text, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise RefusedError(f"kubectl {' '.join(words)}: {done.stderr}")
        return done.stdout

    def apply(self, *objects: Object) -> None:
        wanted = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", text=json.dumps(wanted))

    def get(self, kind: str, name: str) -> Object:
        parsed: Object = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return parsed

    def ready(self, *pods: str, seconds: int = 60) -> None:
        """Wait for pods to be ready; on failure show what they say of themselves."""
        names = [f"pod/{pod}" for pod in pods]
        try:
            self.kubectl("wait", "--for=condition=Ready", f"--timeout={seconds}s", *names)
        except RefusedError as err:
            raise AssertionError(f"{err}\n{self.kubectl('describe', *names)}") from err

    def address(self, pod: str) -> str:
        address: str = self.get("pod", pod)["status"]["podIP"]
        return address

    def inside(self, pod: str, *argv: str) -> str:
        return self.kubectl("exec", pod, "--", *argv)

    @staticmethod
    def wait(ready: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, f"not so after {seconds} s: {what}"
            time.sleep(0.2)
