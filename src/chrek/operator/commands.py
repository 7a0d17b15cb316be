"""What an image runs: ENTRYPOINT and CMD, asked of its registry.

chrek-init stands in front of the worker's command, so the command must be known. Looked up when an
object is reconciled, never in admission, and remembered: by manifest digest for ever, by tag for
minutes. Answers are kept apart by namespace and pull secrets, so that nobody learns of an image
that their own secrets do not open.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import collections
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from chrek import config, errors, log, names
from chrek.kube import api
from chrek.registry import client as registry
from chrek.registry import keyring, reference

LOG = log.get(__name__)
LOOKUP_SECONDS = 10.0
"""A reconciliation waits no longer."""
FRESH_SECONDS = 300.0
MARGIN_SECONDS = 0.5
"""What is left when the client gives up, so that its words are told and not just the time."""
ERROR_SECONDS = 30.0
ERROR_SECONDS_MOST = 240.0
REMEMBERED = 256
CONFIG_BYTES = 4 << 20
INDEX_DEPTH = 2
CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
HINT = "write the worker's `command` into the pod's spec"
SETTING = "dynamo-operator.imageLookup.pullSecretNames"

Key = tuple[str, str, tuple[str, ...]]
K = TypeVar("K")
V = TypeVar("V")


class Run(msgspec.Struct, frozen=True):
    """What an image runs; both are empty when it says nothing."""

    entrypoint: list[str] | None = msgspec.field(name="Entrypoint", default=None)
    cmd: list[str] | None = msgspec.field(name="Cmd", default=None)


class Image(msgspec.Struct, frozen=True):
    """The part of an image's configuration that is read."""

    config: Run | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What came of a look-up.

    Attributes:
        until: when it is looked up again, on the clock of the class.
        run: what the image runs, as last known.
        digest: of the manifest or index that `run` was read from.
        failure: message and hint, when it is not known.
        failures: in a row.
    """

    until: float
    run: Run | None = None
    digest: str = ""
    failure: tuple[str, str | None] = ("", None)
    failures: int = 0


class Bounded(collections.OrderedDict[K, V]):
    """A mapping that forgets what was written first."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > REMEMBERED:
            self.popitem(last=False)


class Commands:
    """Looks up what images run."""

    def __init__(
        self,
        client: api.Client,
        settings: config.ImageLookup,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            client: reads pull secrets.
            settings: which of them it may read, and which registries have no TLS.
            clock: seconds.
        """
        self._client = client
        self._settings = settings
        self._clock = clock
        self._known: Bounded[Key, Found] = Bounded()
        self._by_digest: Bounded[str, Run] = Bounded()
        self._running: dict[Key, asyncio.Task[Found]] = {}

    async def entrypoint(
        self, namespace: str, image: str, pull_secrets: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        """ENTRYPOINT and CMD of an image; `args` of a container take the place of CMD.

        Args:
            namespace: of the pod.
            image: as the container names it.
            pull_secrets: names of the pod's pull secrets.

        Raises:
            UnsupportedError: reason CommandUnknown, with the registry's words.
        """
        if not self._settings.enabled:
            raise _unknown(
                f"image {image}: dynamo-operator.imageLookup.enabled is false, so its registry is"
                " not asked what it runs"
            )
        key = (namespace, image, tuple(sorted(set(pull_secrets) - {""})))
        found = self._known.get(key)
        if found is None or found.until <= self._clock():
            task = self._running.get(key)
            if task is None:
                task = asyncio.create_task(self._look_up(key))
                self._running[key] = task
                task.add_done_callback(lambda _: self._running.pop(key, None))
            # Others may wait for the same answer when this reconciliation is ended.
            found = await asyncio.shield(task)
        if found.run is None:
            message, hint = found.failure
            raise _unknown(message, hint)
        return list(found.run.entrypoint or []), list(found.run.cmd or [])

    async def _look_up(self, key: Key) -> Found:
        namespace, image, _ = key
        before = self._known.get(key)
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                run, digest = await self._ask(key, before)
            found = Found(self._clock() + FRESH_SECONDS, run, digest)
            LOG.debug("image looked up", namespace=namespace, image=image, digest=digest)
        except TimeoutError:
            err = errors.RegistryError(f"no answer within {LOOKUP_SECONDS:.0f} s")
            found = self._failed(image, err, before)
        except errors.ChrekError as err:
            found = self._failed(image, err, before)
        self._known[key] = found
        return found

    def _failed(self, image: str, err: errors.ChrekError, before: Found | None) -> Found:
        failures = before.failures + 1 if before else 1
        wait = min(ERROR_SECONDS * 2 ** min(failures - 1, 8), ERROR_SECONDS_MOST)
        if isinstance(err, errors.RegistryError):
            wait = max(wait, min(err.wait, FRESH_SECONDS))
        LOG.warning(
            "cannot look up what an image runs", image=image, error=str(err), again_seconds=wait
        )
        until = self._clock() + wait
        if before and before.run and _passes(err):
            # A registry that is down must not change pods whose command it told before.
            return Found(until, before.run, before.digest, failures=failures)
        return Found(until, failure=(f"image {image}: {err.message}", err.hint), failures=failures)

    async def _ask(self, key: Key, before: Found | None) -> tuple[Run, str]:
        namespace, text, secrets = key
        image = reference.parse(text)
        if image.digest and before and before.run:
            return before.run, before.digest
        plain = image.registry in self._settings.plainHttpRegistries
        if reference.is_loopback(image.registry) and not plain:
            raise errors.InputError(
                f"registry {image.registry} is the node's own, which the operator cannot reach"
            )
        allowed = [name for name in secrets if name in self._settings.pullSecretNames]
        entries = [entry for name in allowed for entry in await self._secret(namespace, name)]
        deadline = time.monotonic() + LOOKUP_SECONDS - MARGIN_SECONDS
        failed: errors.RegistryError | None = None
        # As the kubelet does it: one after the other, nobody only when there is none.
        credentials: list[keyring.Credential | None] = [*keyring.matching(entries, image)]
        for credential in credentials or [None]:
            made = registry.Client(
                image.registry,
                credential=credential,
                plain_http=plain,
                deadline=deadline - time.monotonic(),
            )
            try:
                async with made as client:
                    return await self._image(client, image, before)
            except errors.RegistryError as err:
                failed = err
                if not err.denied and err.status != 404:
                    break
        if failed is None:
            raise AssertionError("no look-up was tried")
        others = [name for name in secrets if name not in allowed]
        if others and (failed.denied or failed.status == 404):
            listed = ", ".join(others)
            failed.hint = f"list {listed} under {SETTING}: the operator reads no other pull secret"
        raise failed

    async def _image(
        self, client: registry.Client, image: reference.Reference, before: Found | None
    ) -> tuple[Run, str]:
        """What an image runs, and the digest by which that is remembered."""
        # Docker Hub counts downloads of manifests, but not this question.
        if before and before.run and await client.digest(image) == before.digest:
            return before.run, before.digest
        answer = await client.manifest(image)
        digest, manifest = answer.digest, answer.manifest
        if digest in self._by_digest:
            return self._by_digest[digest], digest
        for _ in range(INDEX_DEPTH):
            if not manifest.manifests:
                break
            chosen = _linux(manifest.manifests)
            part = dataclasses.replace(image, tag="", digest=chosen.digest)
            manifest = (await client.manifest(part)).manifest
        if manifest.config is None or manifest.config.media_type not in CONFIG_TYPES:
            raise errors.UnsupportedError("it is not a container image that runs on linux/amd64")
        raw = await client.blob(image.repository, manifest.config, limit=CONFIG_BYTES)
        try:
            run = msgspec.json.decode(raw, type=Image).config or Run()
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            raise errors.UnsupportedError(f"its configuration cannot be read: {err}") from err
        self._by_digest[digest] = run
        return run, digest

    async def _secret(self, namespace: str, name: str) -> list[keyring.Entry]:
        """Credentials of a pull secret; none when there is no such secret, as for the kubelet."""
        source = f"pull secret {namespace}/{name}"
        secret = await self._client.find("v1", "secrets", namespace, name)
        data = (secret or {}).get("data") or {}
        found: list[keyring.Entry] = []
        for key in (".dockerconfigjson", ".dockercfg"):
            if key in data:
                try:
                    raw = base64.b64decode(data[key], validate=True)
                except (binascii.Error, TypeError, ValueError):
                    raise errors.ConfigError(f"{source}: {key} is not base64 text") from None
                found += keyring.read(raw, source=source)
        return found


def _linux(manifests: Sequence[registry.Descriptor]) -> registry.Descriptor:
    """The manifest of an index that a node of linux/amd64 runs."""
    for one in manifests:
        platform = one.platform or {}
        if (platform.get("os"), platform.get("architecture")) == ("linux", "amd64"):
            return one
    known = sorted(
        f"{(one.platform or {}).get('os')}/{(one.platform or {}).get('architecture')}"
        for one in manifests
    )
    raise errors.UnsupportedError(f"it has no linux/amd64; it has {', '.join(known)[:256]}")


def _passes(err: errors.ChrekError) -> bool:
    """Whether a failure says nothing about the image."""
    if isinstance(err, errors.RegistryError):
        return err.retryable and (err.status in (0, 429) or err.status >= 500)
    return err.retryable


def _unknown(message: str, hint: str | None = None) -> errors.UnsupportedError:
    return errors.UnsupportedError(
        message,
        reason=names.Reason.COMMAND_UNKNOWN,
        hint=f"{hint}; or {HINT}" if hint else HINT,
    )
