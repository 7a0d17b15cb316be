"""Which packs the artifacts of a namespace refer to, and how much of each they use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from chrek import errors
from chrek.remote import backend, download, index, places, seal


@dataclasses.dataclass(frozen=True)
class Usage:
    """What one artifact uses."""

    version: str
    """Of its place table: `Entry.places`."""
    bytes: Mapping[str, int]
    """By the name of each pack that it refers to: what it uses of it."""
    sizes: Mapping[str, int]
    """By the same names: bytes of the packs."""


Known = dict[backend.Key, Usage]
"""What a process has read: an artifact is read again only after its place table was exchanged."""


async def complete(
    server: backend.Backend,
    sealer: seal.Sealer,
    entries: Sequence[backend.Entry],
    known: Known,
) -> bool:
    """Make `known` say what these artifacts use, and nothing of others.

    Args:
        entries: all artifacts of a namespace.

    Returns:
        Whether packs may have come to be used less: an artifact has gone, or nothing was known.

    Raises:
        ArtifactError: of an artifact it cannot be told. StoreError: the server failed.
    """
    gone = known.keys() - {entry.key for entry in entries}
    less = bool(gone) or not known
    for key in gone:
        del known[key]
    for entry in entries:
        there = known.get(entry.key)
        if there is not None and entry.places and there.version == entry.places:
            continue
        try:
            contents = await index.read(server, sealer, entry.key)
        except errors.ArtifactError as err:
            raise errors.ArtifactError(
                f"which packs artifact {entry.key.uuid} needs cannot be told: {err.message}",
                reason=err.reason,
                hint="delete it: nothing else of this namespace goes before that",
            ) from err
        known[entry.key] = _usage(entry.places, contents.places)
    return less


def packs(known: Known) -> set[str]:
    """Names of all packs that somebody refers to."""
    return {name for one in known.values() for name in one.bytes}


def lonely(known: Known, share: float) -> set[str]:
    """Packs of which no artifact alone uses that share; several together may."""
    names: set[str] = set()
    enough: set[str] = set()
    for one in known.values():
        for name, found in one.bytes.items():
            (names if found < share * one.sizes[name] else enough).add(name)
    return names - enough


def _usage(version: str, where: places.Places) -> Usage:
    found = dict.fromkeys((one.name for one in where.packs), 0)
    last = (-1, -1)
    for number in download.in_order(where.places):
        place = where.places[number]
        if place[:2] != last:
            found[where.packs[place.pack].name] += place.size
            last = place[:2]
    return Usage(version, found, {one.name: one.size for one in where.packs})


def used(where: places.Places, wanted: Iterable[int]) -> dict[int, dict[int, int]]:
    """Offset -> bytes of what is used of packs, by their numbers; each place counts once."""
    found: dict[int, dict[int, int]] = {number: {} for number in wanted}
    for place in where.places:
        if place.pack in found:
            found[place.pack][place.offset] = place.size
    return found
