"""What `scripts/bench operator` measures: the operator with many objects, on a real API server.

The operator of this checkout runs as a process with the chart's rights; a stand-in plays kubelet
and agent. At the end a bare loop makes the same objects and writes as much, which shows how much of
the time is the cluster's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from chrek import errors, names
from chrek.kube import api, credentials
from showcase import bare, cluster, commands, concurrency, figures, life, site, standin, view
from showcase import errors as show_errors

Object = dict[str, Any]

NAMESPACE = "chrek-bench"
BARE = "chrek-bench-bare"
GONE_SECONDS = 900.0


class Fleet:
    """Namespaces with the operator. Use as a context manager: it removes everything at the end."""

    def __init__(self, live: cluster.Cluster) -> None:
        self._live = live
        self._folder = Path(tempfile.mkdtemp(prefix="chrek-bench-"))
        self._credentials = credentials.from_kubeconfig(live.kubeconfig)
        self._site: site.Site | None = None
        self._operator: site.Operator | None = None

    def __enter__(self) -> Fleet:
        try:
            self._clear()
            self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        commands.say("removing what was made")
        if self._operator is not None and self._operator.process is not None:
            self._operator.end(signal.SIGTERM)
        if self._site is not None:
            self._site.remove()
        self._clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def measure(self, *, checkpoints: int, graphs: int, rest_seconds: float) -> Object:
        """All figures.

        Raises:
            ShowError: not everything got Ready, or the API server refused something.
        """
        assert self._operator is not None
        try:
            return asyncio.run(self._measure(checkpoints, graphs, rest_seconds))
        except (errors.ChrekError, show_errors.ShowError) as err:
            raise show_errors.ShowError(f"{err}\n{self._last_words()}") from err

    def _last_words(self) -> str:
        assert self._operator is not None
        lines = self._operator.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join(["the operator's log ends so:", *lines])

    def _set_up(self) -> None:
        site.install_crds(self._live.kubeconfig)
        for name in (NAMESPACE, BARE):
            self._live.kubectl("create", "namespace", name)
        self._site = site.Site(
            kubeconfig=self._live.kubeconfig,
            namespace=NAMESPACE,
            folder=self._folder,
            log_level="info",
        )
        self._operator = site.Operator(self._site)
        self._operator.start()
        self._operator.ready()
        cluster.wait_until(self._operator.leads, "the operator leads", timeout=30)

    async def _measure(self, checkpoints: int, graphs: int, rest_seconds: float) -> Object:
        assert self._operator is not None
        report: Object = {"load": {"checkpoints": checkpoints, "graphs": graphs}}
        async with api.Client(self._credentials, user_agent="chrek-bench") as client:
            seen = view.View(client, NAMESPACE)
            pods = standin.StandIn(client, NAMESPACE)
            steps = life.Life(client, self._operator, seen, pods, namespace=NAMESPACE)
            report["alone"] = dataclasses.asdict(steps.usage())
            async with concurrency.beside(seen.run(), pods.run()):
                await seen.synced()
                report["converged"] = await steps.converge(checkpoints, graphs)
                report["writes"] = report["converged"].pop("writes")
                report["rest"] = await steps.rest(rest_seconds)
                report["reaction"] = await steps.reaction(checkpoints)
                report["deletion"] = await steps.deletion(checkpoints)
                report["restart"] = await steps.restart(checkpoints + graphs)
            await asyncio.to_thread(self._operator.end, signal.SIGTERM)
            report["floor"] = await bare.measure(
                client,
                NAMESPACE,
                BARE,
                checkpoints=checkpoints,
                graphs=graphs,
                checkpoint_writes=report["writes"]["per_checkpoint"],
                graph_writes=report["writes"]["per_graph"] or 0,
            )
        shown = figures.headline(report)
        return {"figures": shown, "aims": figures.aims(shown), **report}

    def _clear(self) -> None:
        """Remove the namespaces, also those that an interrupted run left."""
        asyncio.run(self._without_finalizers())
        for name in (NAMESPACE, BARE):
            self._live.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
        cluster.wait_until(
            lambda: not any(self._live.get(f"/api/v1/namespaces/{n}") for n in (NAMESPACE, BARE)),
            f"namespaces {NAMESPACE} and {BARE} are gone",
            timeout=GONE_SECONDS,
            interval=1,
        )

    async def _without_finalizers(self) -> None:
        """The operator, which would take them off, is gone."""
        async with api.Client(self._credentials, user_agent="chrek-bench") as client:
            for namespace in (NAMESPACE, BARE):
                # Neither namespace nor CRDs need to be there.
                with contextlib.suppress(errors.ApiError):
                    where = (names.API_VERSION, names.CHECKPOINT_PLURAL, namespace)
                    found = [o["metadata"] for o in (await client.list(*where))["items"]]
                    free = {"metadata": {"finalizers": None}}
                    await concurrency.bounded(
                        (client.patch(*where, o["name"], free) for o in found if "finalizers" in o),
                        life.CREATORS,
                    )
