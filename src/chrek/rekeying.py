"""`chrek prune --rekey`: everything on a server is sealed with a new key of the store."""

from __future__ import annotations

import contextlib
import os
import pathlib

from chrek import config, log
from chrek import storage as storages
from chrek.kube import api


def run(config_path: pathlib.Path) -> None:
    """Do it for all namespaces of a release, and print a line for each artifact.

    Args:
        config_path: the agent's configuration; the Secret with the key is where it says.

    Raises:
        ChrekError: it is not finished; says why. It goes on when it is called again.
    """
    settings = config.load(config_path, config.AgentConfig)
    log.setup(settings.logLevel)
    storage = storages.Storage(
        settings.storage,
        os.environ.get("POD_NAMESPACE") or api.credentials().namespace,
        transfer_seconds=settings.dumpTimeoutSeconds,
    )
    with contextlib.closing(storage):
        storage.rekey(
            settings.watchNamespaces,
            writer_seconds=2.0 * settings.dumpTimeoutSeconds,
            report=lambda line: print(line, flush=True),
        )
