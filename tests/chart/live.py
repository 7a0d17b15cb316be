"""kubectl and helm on one cluster, and a namespace for a test."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

CHART = pathlib.Path(__file__).resolve().parents[2] / "charts" / "chrek"
CRDS = CHART / "files" / "crds"


class Live:
    """The programs of a cluster's user.

    Attributes:
        program: the path of one, by its name.
        environment: what they are run with; KUBECONFIG names the cluster.
    """

    def __init__(self, find: Callable[[str], str], kubeconfig: pathlib.Path) -> None:
        self.program = find
        self.environment = {**os.environ, "KUBECONFIG": os.fspath(kubeconfig)}

    def run(
        self,
        program: str,
        *args: str | os.PathLike[str],
        stdin: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run one to its end; `check` wants exit status 0."""
        done = subprocess.run(
            [self.program(program), *args],
            input=stdin,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def kubectl(self, *args: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return self.run("kubectl", *args, **kwargs)

    def helm(self, *args: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return self.run("helm", *args, **kwargs)

    def get(self, *args: str, stdin: str | None = None) -> Any:
        """What `kubectl get` answers."""
        return json.loads(self.kubectl("get", *args, "--output=json", stdin=stdin).stdout)


@contextlib.contextmanager
def namespace(live: Live, name: str, **labels: str) -> Iterator[str]:
    """A namespace that is new, and goes at the end; `labels` are Pod Security's modes."""
    live.kubectl("delete", "namespace", name, "--ignore-not-found")
    live.kubectl("create", "namespace", name)
    for key, value in labels.items():
        live.kubectl("label", "namespace", name, f"pod-security.kubernetes.io/{key}={value}")
    try:
        yield name
    finally:
        live.kubectl("delete", "namespace", name, "--wait=false")
