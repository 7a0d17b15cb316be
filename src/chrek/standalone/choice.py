"""Which checkpoint a program is restored from, and why from none."""

from __future__ import annotations

import pathlib

import msgspec

from chrek import compatibility, errors, facts, gpustate, manifest, names
from chrek import store as stores
from chrek.cuda import client
from chrek.cuda import gpus as devices
from chrek.standalone import place, records

DRIVER = "driver"
"""Below the folder of a program: links to the driver's libraries."""


def gpus(helper: client.Helper) -> devices.Gpus | None:
    """This machine's; None without a driver."""
    return devices.Gpus(helper) if helper.available() else None


def declared(run: records.Run) -> compatibility.Facts:
    """What is known of a program before it runs."""
    return compatibility.Facts(command=run.command, environment=run.compared)


def newest(run: records.Run) -> stores.Artifact:
    """The newest checkpoint of a program and its command.

    Raises:
        ArtifactError: there is none, with a Reason; or it is damaged.
        StoreError: the directory cannot be read.
        InputError: others can write it.
    """
    path = pathlib.Path(run.store)
    records.check_store(path)
    store = stores.Store(path)
    found = store.artifacts(run.identity) if path.is_dir() else []
    if not found:
        raise errors.ArtifactError(
            f"{path} has no checkpoint of {run.name} in this directory",
            reason=names.Reason.CHECKPOINT_NOT_FOUND,
            hint=f"once it is ready: chrek dump {run.name}",
        )
    fitting = [one for one in found if one[1] == run.variant]
    if not fitting:
        raise errors.ArtifactError(
            f"the checkpoints of {run.name} were captured with another command",
            reason=names.Reason.NO_VARIANT,
            hint=f"once it is ready: chrek dump {run.name}",
        )
    opened = [store.open(*one, store.stored_digest(*one)) for one in fitting]
    return max(opened, key=_age)


def _age(artifact: stores.Artifact) -> tuple[str, int]:
    """Whole seconds are told; of captures of the same one the volume knows more."""
    written = (artifact.path / manifest.NAME).stat().st_mtime_ns
    return artifact.manifest.createdAt, written


def compare(
    artifact: stores.Artifact, run: records.Run, init_pid: int, present: devices.Gpus | None
) -> None:
    """Hold what was captured against a container that has nothing but PID 1 in it.

    Raises:
        CompatibilityError, UnsupportedError, GpuError: what does not fit.
    """
    described = artifact.manifest
    found = present.facts(init_pid) if present is not None else compatibility.GpuFacts()
    try:
        here = facts.present(
            init_pid, compatibility.Origin(), declared(run), described.source, gpus=found
        )
    except OSError as err:
        raise errors.PeerError(f"the facts of container process {init_pid}: {err}") from err
    gpustate.check(described, init_pid, present)
    try:
        compatibility.compare(_needed(described.source, run), here)
    except errors.CompatibilityError as err:
        # What else there is to do in a cluster does not help here.
        err.hint = f"to have it start warm again: chrek dump {run.name}"
        raise
    gpustate.plan(described, init_pid, present)


def _needed(captured: compatibility.Facts, run: records.Run) -> compatibility.Facts:
    """What was captured, without mounts of the machine that the program had nothing in.

    A container sees all that a machine has mounted, and disks, images and other containers' file
    systems come and go. Of those in memory it is not known what a program has open.
    """
    used = [run.cwd, *run.volumes, *(file.path for file in captured.volumeFiles or ())]
    kept = [
        mount
        for mount in captured.mounts or ()
        if not mount.readOnly
        or mount.kind != "disk"
        or any(place.below(path, mount.path) for path in used)
    ]
    return msgspec.structs.replace(captured, mounts=kept)
