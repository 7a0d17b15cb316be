"""Dynamic volumes of the storage class `shared`: folders of the host that every node mounts.

A claim of the class gets a folder under the cluster's volumes/ and a hostPath volume for it;
every node sees the folder at the same path, so the volume is ReadWriteMany. A released
volume is deleted together with its folder where the reclaim policy says so. The process
lists and then watches, and lists again when a watch ends.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from devcluster import api, cache, certificates, errors, objects

NODE_FOLDER = "/srv/volumes"
"""Where the nodes see the cluster's volumes/ folder."""

CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
WANTED_FROM = "volume.kubernetes.io/storage-provisioner"
RETRY_SECONDS = 1.0


def main() -> None:
    """Serve claims and released volumes until the process is ended."""
    where = cache.Cache.from_environment()
    client = api.Client(where.pki, certificates.ADMIN)
    events = itertools.count()

    def on_claim(claim: api.Object) -> None:
        provision(client, where.volumes, claim, next(events))

    def on_volume(volume: api.Object) -> None:
        reclaim(client, where.volumes, volume)

    for path, handle in ((CLAIMS, on_claim), (VOLUMES, on_volume)):
        threading.Thread(target=follow, args=(client, path, handle), daemon=True).start()
    threading.Event().wait()


def follow(client: api.Client, path: str, handle: Callable[[api.Object], None]) -> None:
    """Call `handle` for every object of a list and for each later change, for ever."""
    while True:
        try:
            listed = client.get(path)
            for item in listed["items"]:
                handle(item)
            for event in client.watch(path, listed["metadata"]["resourceVersion"]):
                if event["type"] == "ERROR":
                    break
                if event["type"] != "DELETED":
                    handle(event["object"])
        except (OSError, errors.ClusterError, ValueError) as err:
            _log(f"{path}: {err}")
            time.sleep(RETRY_SECONDS)


def wanted(claim: api.Object) -> bool:
    """Whether a claim waits for a volume of this provisioner."""
    notes = claim["metadata"].get("annotations") or {}
    return (
        claim["status"].get("phase") == "Pending"
        and not claim["spec"].get("volumeName")
        and not claim["metadata"].get("deletionTimestamp")
        and notes.get(WANTED_FROM) == objects.PROVISIONER
    )


def volume_for(claim: api.Object) -> api.Object:
    """The volume that satisfies a claim."""
    metadata, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{metadata['uid']}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: objects.PROVISIONER}},
        "spec": {
            "storageClassName": spec["storageClassName"],
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "persistentVolumeReclaimPolicy": objects.storage_class()["reclaimPolicy"],
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "hostPath": {"path": f"{NODE_FOLDER}/{name}", "type": "Directory"},
        },
    }


def provision(client: api.Client, volumes: Path, claim: api.Object, number: int) -> None:
    """Give a claim its folder and volume, or say in an event why not."""
    if not wanted(claim):
        return
    if claim["spec"].get("volumeMode") == "Block":
        message = "volumeMode Block is not supported; the class offers folders"
        _report(client, claim, "Warning", "ProvisioningFailed", message, number)
        return
    volume = volume_for(claim)
    folder = volumes / volume["metadata"]["name"]
    folder.mkdir(parents=True, exist_ok=True)
    # As an NFS export without root squash would be: pods of any user may write.
    folder.chmod(0o777)
    try:
        client.request("POST", VOLUMES, volume)
    except api.ApiError as err:
        if err.status == 409:
            return
        raise
    _log(f"made {folder} for {claim['metadata']['namespace']}/{claim['metadata']['name']}")
    message = f"made volume {volume['metadata']['name']}"
    _report(client, claim, "Normal", "ProvisioningSucceeded", message, number)


def reclaim(client: api.Client, volumes: Path, volume: api.Object) -> None:
    """Delete a released volume and its folder, unless it is to be retained."""
    metadata, spec = volume["metadata"], volume["spec"]
    if (
        volume.get("status", {}).get("phase") != "Released"
        or (metadata.get("annotations") or {}).get(PROVISIONED_BY) != objects.PROVISIONER
        or spec.get("persistentVolumeReclaimPolicy") != "Delete"
        or metadata.get("deletionTimestamp")
    ):
        return
    shutil.rmtree(volumes / metadata["name"], ignore_errors=True)
    try:
        client.request("DELETE", f"{VOLUMES}/{metadata['name']}")
    except api.ApiError as err:
        if err.status != 404:
            raise
    _log(f"deleted {metadata['name']}")


def _report(
    client: api.Client, claim: api.Object, kind: str, reason: str, message: str, number: int
) -> None:
    metadata = claim["metadata"]
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name'][:200]}.{time.time_ns():x}.{number}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": objects.PROVISIONER},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        client.request("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", event)
    except api.ApiError as err:
        # A namespace that is being deleted takes no event; the volume matters more.
        _log(f"event {reason}: {err}")


def _log(message: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
