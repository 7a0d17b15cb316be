"""What published Dynamo workers wait for, around the capture and the restore of their pod.

Two generations of them exist, and a worker of another kind notices neither:

- the older writes the file of `DYN_READY_FOR_CHECKPOINT_FILE` and waits for a signal: SIGCONT says
  that it was restored. Signals go to processes alone that catch SIGCONT: SIGUSR2, which says that
  the capture failed, would end others.
- the newer writes `ready-for-checkpoint`, the newest `ready-for-snapshot`, into the directory of
  `DYN_SNAPSHOT_CONTROL_DIR`, and looks there every 0.1 s for `restore-complete`. It then takes its
  environment from `restore-context.json` there.

Both also know of a capture that has succeeded (SIGUSR1, `snapshot-complete`), upon which they exit.
Nobody is left to tell: a checkpoint job's tree ends inside of its capture.

Source: ai-dynamo/dynamo, components/src/dynamo/common (checkpoint and snapshot life cycles).
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal

from chrek import names, procfs, rootfd

READY_FILES = (pathlib.PurePath(names.READY_FILE).name, "ready-for-snapshot")
RESTORED_FILE = "restore-complete"
_CONTENT = b"done\n"


def restored(init_pid: int, volume: int) -> int:
    """Tell the workers of a container that they were restored.

    Args:
        init_pid: PID 1 of the container.
        volume: descriptor of its chrek volume, which is the workers' control directory.

    Returns:
        How many processes got a signal.

    Raises:
        OSError: the file cannot be written.
    """
    # For everybody to read; whoever waits finds it whole or not at all.
    rootfd.put(volume, RESTORED_FILE, _CONTENT, mode=0o644)
    return _signal(init_pid, signal.SIGCONT)


def failed(init_pid: int) -> int:
    """Tell the workers of a checkpoint job that its capture failed for good.

    Returns:
        How many processes got a signal.
    """
    return _signal(init_pid, signal.SIGUSR2)


def forget(volume: int) -> None:
    """Remove what an earlier life of the container was told and what it said."""
    rootfd.remove(volume, RESTORED_FILE, *READY_FILES)


def _signal(init_pid: int, number: signal.Signals) -> int:
    """Signal, on each branch below PID 1, the first process that waits for it."""
    count = 0
    waiting = procfs.children(init_pid)
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            handled = procfs.status(pid).caught_signals
            if signal.SIGCONT in handled and number in handled:
                os.kill(pid, number)
                count += 1
            else:
                waiting += procfs.children(pid)
    return count
