"""What a store on a server needs besides its artifacts' coming and going."""

from __future__ import annotations

import time

from chrek import errors, log
from chrek.remote import prune, repack, usage
from chrek.remote import server as servers

LOG = log.get(__name__)


class Upkeep:
    """Of one namespace."""

    def __init__(self, server: servers.Server, namespace: str, known: usage.Known) -> None:
        self._server = server
        self._namespace = namespace
        self._known = known

    def after_deletions(self, *, writer_seconds: float) -> None:
        """Free what nobody needs any more.

        Args:
            writer_seconds: who began to make an artifact longer ago has died.

        Raises:
            StoreError, ArtifactError: packs that nobody refers to were not removed.
        """
        self._collect(writer_seconds)
        self._repack()

    def after_a_while(self, *, writer_seconds: float) -> int:
        """Free what others have left; returns the number of packs.

        Raises:
            StoreError, ArtifactError: as `after_deletions`.
        """
        done = self._collect(writer_seconds)
        if done.less_used:
            self._repack()
        return done.packs

    def _collect(self, writer_seconds: float) -> prune.Collected:
        done = self._server.run(
            lambda one, sealer: prune.collect(
                one, sealer, self._namespace, writer_seconds=writer_seconds, known=self._known
            ),
            timeout_seconds=prune.LONGEST_SECONDS,
            fresh=True,
        )
        if done.packs or done.why_not:
            LOG.info(
                "collected",
                namespace=self._namespace,
                packs=done.packs,
                bytes=done.bytes,
                why_not=done.why_not,
            )
        return done

    def _repack(self) -> None:
        """What could not be done now is done another time."""
        begin = time.monotonic()
        try:
            done = self._server.run(
                lambda one, sealer: repack.sparse(one, sealer, self._namespace, known=self._known),
                timeout_seconds=prune.LONGEST_SECONDS,
                fresh=True,
            )
        except errors.ChrekError as err:
            LOG.warning("not repacked", namespace=self._namespace, error=str(err))
            return
        if done.packs:
            LOG.info(
                "repacked",
                namespace=self._namespace,
                packs=done.packs,
                artifacts=done.artifacts,
                bytes=done.bytes,
                seconds=round(time.monotonic() - begin, 3),
            )
