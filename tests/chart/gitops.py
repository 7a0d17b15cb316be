"""What Argo CD does with a chart, with kubectl: phases, waves, and no idea of install or upgrade.

It renders with `helm template`, so that every sync has the hooks of installations and of upgrades.
"""

from __future__ import annotations

import json
import time
from typing import Any

import yaml

from chart import live as lives
from chart import rendered

Object = dict[str, Any]

PHASES = {
    "pre-install": "PreSync",
    "pre-upgrade": "PreSync",
    "post-install": "PostSync",
    "post-upgrade": "PostSync",
    "pre-delete": "PreDelete",
    "post-delete": "PostDelete",
}
"""Helm's events in Argo CD. What has none of these (tests, rollbacks) is never applied."""

APPLY = ("--server-side", "--force-conflicts", "--field-manager=argocd-controller")
KEEP = "helm.sh/resource-policy"


def phases(document: Object) -> set[str]:
    """When a hook is applied; empty for an ordinary object."""
    return {PHASES[event] for event in rendered.events(document) if event in PHASES}


def wave(document: Object) -> int:
    return int(rendered.annotations(document).get("helm.sh/hook-weight", 0))


def ordinary(documents: list[Object]) -> list[Object]:
    return [document for document in documents if not rendered.events(document)]


class Application:
    """Rendered documents, and a cluster that they go to."""

    def __init__(self, live: lives.Live, documents: list[Object]) -> None:
        self._live = live
        self._documents = documents

    def sync(self) -> None:
        """One sync, of which nobody knows whether it is the first."""
        self._run("PreSync")
        self._apply(ordinary(self._documents))
        self._wait_healthy()
        self._run("PostSync")
        # Argo CD takes successful hooks away when the sync has ended, not when each has.
        self._delete([*self._of_phase("PreSync"), *self._of_phase("PostSync")])

    def difference(self) -> str:
        """What Argo CD would show as out of sync."""
        done = self._live.kubectl(
            "diff", *APPLY, "--filename=-", stdin=_text(ordinary(self._documents)), check=False
        )
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    def delete(self) -> None:
        """The deletion of the Application by an Argo CD that knows PreDelete.

        It makes the hooks of a deletion all at once, without waves.
        """
        self._run_at_once("PreDelete")
        gone = [d for d in ordinary(self._documents) if KEEP not in rendered.annotations(d)]
        self._delete(gone)
        self._run_at_once("PostDelete")

    def _of_phase(self, phase: str) -> list[Object]:
        return [document for document in self._documents if phase in phases(document)]

    def _run(self, phase: str) -> None:
        hooks = self._of_phase(phase)
        for number in sorted({wave(hook) for hook in hooks}):
            now = [hook for hook in hooks if wave(hook) == number]
            # All of ours have the policy before-hook-creation.
            self._delete(now)
            self._apply(now)
            self._wait_done(now)

    def _run_at_once(self, phase: str) -> None:
        hooks = self._of_phase(phase)
        self._apply(hooks)
        self._wait_done(hooks)
        self._delete(hooks)

    def _apply(self, documents: list[Object]) -> None:
        if documents:
            self._live.kubectl("apply", *APPLY, "--filename=-", stdin=_text(documents))

    def _delete(self, documents: list[Object]) -> None:
        if documents:
            flags = ["--ignore-not-found", "--filename=-"]
            self._live.kubectl("delete", *flags, stdin=_text(documents))

    def _wait_healthy(self) -> None:
        for document in rendered.of_kind(self._documents, "Deployment", "DaemonSet"):
            where = f"--namespace={document['metadata']['namespace']}"
            name = f"{document['kind'].lower()}/{rendered.name(document)}"
            self._live.kubectl("rollout", "status", name, where, "--timeout=120s")

    def _wait_done(self, documents: list[Object], *, seconds: float = 300) -> None:
        """Until every Job of these has ended well."""
        deadline = time.monotonic() + seconds
        for job in rendered.of_kind(documents, "Job"):
            name, where = rendered.name(job), f"--namespace={job['metadata']['namespace']}"
            while True:
                status = self._live.get("job", name, where).get("status", {})
                if status.get("succeeded"):
                    break
                late = time.monotonic() > deadline
                if status.get("failed") or late:
                    log = self._live.kubectl("logs", f"job/{name}", where, check=False)
                    raise AssertionError(f"{name}: {json.dumps(status)}\n{log.stdout}{log.stderr}")
                time.sleep(0.3)


def _text(documents: list[Object]) -> str:
    return yaml.safe_dump_all(documents)
