"""For programs that are captured and restored: say when, and learn that it happened.

A restored process goes on with the memory of another pod: its environment, its random numbers and
its identifiers are those of the capture, and every other restore has the same ones. A program that
cannot live with that calls this module:

    import chrek.worker as chrek      # or, from the chrek volume: sys.path.append("/chrek")
                                      #                            import chrek_worker as chrek
    @chrek.before_checkpoint
    def free():
        engine.free_kv_cache()        # what is not there need not be stored, nor loaded

    @chrek.on_restored
    def reconnect(context):
        engine.allocate_kv_cache()
        client.connect(context.environment["ENDPOINT"])

    engine.load()
    chrek.ready()                     # may be captured from now on; returns at once
    serve()

`ready` writes the ready file of checkpoint jobs (DYN_READY_FOR_CHECKPOINT_FILE; elsewhere nothing)
and has a thread watch for a restore. In checkpoint jobs it first calls the `before_checkpoint`
hooks and frees what PyTorch merely caches of GPU memory. In a restored process that thread first
brings up to date what Python itself keeps (`BUILT_IN`), then calls the hooks in the order in which
they were registered. `checkpoint()` does the same and waits: it returns when the process has been
restored, its hooks done, or at once where there is nothing to wait for.

One file, the standard library alone, Python 3.9 and later.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import os
import random
import sys
import threading
import time
import uuid
from typing import Any, Callable, Dict, List, Optional, Sequence  # noqa: UP035 - Python 3.9

__all__ = [
    "Context",
    "before_checkpoint",
    "checkpoint",
    "context",
    "on_restored",
    "ready",
    "wait_until_restored",
]

CONTEXT_FILE = "/chrek/restore-context.json"
READY_VARIABLES = ("DYN_READY_FOR_CHECKPOINT_FILE", "DYNAMO_CHECKPOINT_SIGNAL_FILE")
POLL_SECONDS = 0.05
VERSION = 1
LOG = logging.getLogger("chrek.worker")


@dataclasses.dataclass(frozen=True)
class Context:
    """Where a restored process is now.

    Attributes:
        clone_id: a UUID that each restore has anew.
        seed: random bytes that no other restore has.
        captured_at: RFC 3339, as is `restored_at`.
        identity_hash: of the checkpoint.
        artifact: UUID of the artifact.
        pod: `namespace`, `name` and `uid` of the new pod.
        hostname: of the new pod.
        addresses: of the new pod.
        environment: what a new process of the container would have.
    """

    clone_id: str
    seed: bytes
    captured_at: str
    restored_at: str
    identity_hash: str
    artifact: str
    pod: Dict[str, str]  # noqa: UP006 - Python 3.9, also at run time
    hostname: str
    addresses: List[str]  # noqa: UP006
    environment: Dict[str, str]  # noqa: UP006


Hook = Callable[[Context], Any]
Before = Callable[[], Any]


def _read() -> Optional[Context]:  # noqa: UP045
    """The file as it is now; None where it is missing or of a version that is not known."""
    try:
        with open(CONTEXT_FILE, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        return None
    return Context(
        clone_id=found["cloneId"],
        seed=bytes.fromhex(found["seed"]),
        captured_at=found["capturedAt"],
        restored_at=found["restoredAt"],
        identity_hash=found["identityHash"],
        artifact=found["artifact"],
        pod=found["pod"],
        hostname=found["hostname"],
        addresses=found["addresses"],
        environment=found["env"],
    )


def _update_environment(now: Context) -> None:
    """os.environ as in the new pod; variables that the program itself has set stay."""
    for name, value in now.environment.items():
        if _started_with.get(name) != value:
            os.environ[name] = value
    for name in _started_with.keys() - now.environment.keys():
        if os.environ.get(name) == _started_with[name]:
            os.environ.pop(name, None)
    _started_with.clear()
    _started_with.update(now.environment)


def _reseed(now: Context) -> None:
    """`random`, and NumPy and PyTorch where they are loaded. The kernel's and `secrets` need none.

    Only global generators: an object that a program seeded is the program's own.
    """
    random.seed(now.seed)
    number = int.from_bytes(now.seed[:8], "little")
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(number & 0xFFFFFFFF)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(number & 0x7FFFFFFFFFFFFFFF)  # CUDA's generators as well
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        # Mixed into what OpenSSL has; it draws anew from the kernel only now and then.
        ssl.RAND_add(now.seed, float(len(now.seed)))


def _renew_identifiers(_: Context) -> None:
    """What uuid1 would go on with: two clones at one moment would draw the same."""
    values = {
        "_node": random.SystemRandom().getrandbits(48) | (1 << 40),
        "_last_timestamp": None,
        # libuuid keeps the node's address and its clock's sequence in memory of its own.
        "_generate_time_safe": None,
    }
    for name, value in values.items():
        setattr(uuid, name, value)


BUILT_IN: List[Hook] = [_update_environment, _reseed, _renew_identifiers]  # noqa: UP006
"""Before all others: so hooks find the new environment."""

_started_with = dict(os.environ)
_hooks: List[Hook] = []  # noqa: UP006
_before: List[Before] = []  # noqa: UP006
_lock = threading.Lock()
_restored = threading.Event()
_known = _read()
_watching: List[int] = []  # noqa: UP006


def on_restored(hook: Hook) -> Hook:
    """Have a function called, with the Context, in each process that is restored; a decorator.

    It runs in the thread that watches, or in the one that waits in `checkpoint`. What it raises is
    logged; the others run nevertheless.
    """
    _hooks.append(hook)
    return hook


def before_checkpoint(hook: Before) -> Before:
    """Have a function called, without arguments, before `ready` says so; a decorator.

    For what a worker can do without while nobody asks it, such as a KV cache: a hook of
    `on_restored` makes it anew. It runs in the thread that calls `ready`, in checkpoint jobs alone:
    a worker that serves goes on and needs it. What it raises is logged; the others run
    nevertheless.
    """
    _before.append(hook)
    return hook


def context() -> Optional[Context]:  # noqa: UP045
    """Of the last restore of this process; None where it was never restored."""
    return _known if _restored.is_set() else None


def ready() -> None:
    """Say that this process may be captured, and watch for its restore.

    Returns when the hooks of `before_checkpoint` have been called; elsewhere than in checkpoint
    jobs at once.
    """
    _watch()
    for name in READY_VARIABLES:
        path = os.environ.get(name)
        if path:
            _call(_before)
            _free_cached()
            with open(path, "w", encoding="utf-8") as file:
                file.write("ready\n")
            return


def checkpoint() -> Optional[Context]:  # noqa: UP045
    """Say that this process may be captured and, in a checkpoint job, wait for the restore.

    A checkpoint job's process ends with its capture, so whoever returns from the wait was restored.

    Returns:
        The Context, its hooks done; None outside of checkpoint jobs, where nothing is waited for.
    """
    ready()
    if not any(os.environ.get(name) for name in READY_VARIABLES):
        return None
    wait_until_restored()
    return context()


def wait_until_restored(timeout_seconds: Optional[float] = None) -> bool:  # noqa: UP045
    """Wait until this process was restored and its hooks are done; False when time is up."""
    _watch()
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while not _restored.is_set():
        look()
        if deadline is not None and time.monotonic() > deadline:
            return _restored.is_set()
        # Not an endless wait: the clock of a restored process goes on where it stood.
        _restored.wait(POLL_SECONDS)
    return True


def look() -> bool:
    """Look for a restore now, and call the hooks if there was one; True if there was."""
    global _known
    with _lock:
        now = _read()
        if now is None or (_known is not None and now.clone_id == _known.clone_id):
            return False
        _known = now
        _call([*BUILT_IN, *_hooks], now)
        _restored.set()
        return True


def _call(hooks: Sequence[Callable[..., Any]], *arguments: Context) -> None:
    for hook in hooks:
        try:
            hook(*arguments)
        except Exception:
            LOG.exception("hook %r failed", getattr(hook, "__name__", hook))


def _free_cached() -> None:
    """Free GPU memory that PyTorch keeps for later, which would be stored with the rest."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    try:
        if cuda is None or not cuda.is_initialized():
            return
        # Of tensors in cycles, too.
        gc.collect()
        before = _reserved(cuda)
        cuda.empty_cache()
        LOG.info("freed %d bytes of GPU memory that PyTorch had cached", before - _reserved(cuda))
    except Exception:
        LOG.exception("PyTorch's cache of GPU memory was not freed")


def _reserved(cuda: Any) -> int:
    return sum(cuda.memory_reserved(number) for number in range(cuda.device_count()))


def _watch() -> None:
    with _lock:
        # A fork has no threads of its parent.
        if _watching == [os.getpid()]:
            return
        _watching[:] = [os.getpid()]
    threading.Thread(target=_go_on, name="chrek-worker", daemon=True).start()


def _go_on() -> None:
    while True:
        look()
        time.sleep(POLL_SECONDS)
