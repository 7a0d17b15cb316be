"""Checks of the volume that will hold the store."""

from __future__ import annotations

from typing import Any

from chrek.checks import report, settings
from chrek.kube import workstation

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
SHARED = "ReadWriteMany"

ONE_NODE_PROVISIONERS = frozenset(
    {
        "cinder.csi.openstack.org",
        "csi.hetzner.cloud",
        "disk.csi.azure.com",
        "dobs.csi.digitalocean.com",
        "ebs.csi.aws.com",
        "ebs.csi.eks.amazonaws.com",
        "kubernetes.io/aws-ebs",
        "kubernetes.io/azure-disk",
        "kubernetes.io/cinder",
        "kubernetes.io/gce-pd",
        "linodebs.csi.linode.com",
        "pd.csi.storage.gke.io",
        "topolvm.io",
    }
)
"""Provisioners of block volumes, which one node mounts at a time.

Source: "Volume access modes" of each driver's documentation,
https://kubernetes-csi.github.io/docs/drivers.html
"""

SHARED_PROVISIONERS = frozenset(
    {
        "cephfs.csi.ceph.com",
        "csi.juicefs.com",
        "driver.longhorn.io",
        "efs.csi.aws.com",
        "file.csi.azure.com",
        "filestore.csi.storage.gke.io",
        "fsx.csi.aws.com",
        "nfs.csi.k8s.io",
        "rook-ceph.cephfs.csi.ceph.com",
        "smb.csi.k8s.io",
    }
)
"""Provisioners of file systems that many nodes mount. Source: as above."""


def storage(
    cluster: workstation.Cluster, wanted: settings.Claim, *, namespace: str
) -> report.Outcome:
    """The claim exists and fits, or a StorageClass can provide it."""
    path = workstation.path("v1", "persistentvolumeclaims", namespace, wanted.name)
    claim = cluster.get(path)
    if claim is not None:
        return _existing(claim, wanted)
    if not wanted.create:
        return report.failed(
            "storage",
            f"claim {namespace}/{wanted.name}: not found",
            f"create it, or have it made: storage.pvc.create=true, storage.pvc.name={wanted.name} "
            "and no storage.pvc.existingClaim",
        )
    return _storage_class(cluster, wanted)


def _existing(claim: dict[str, Any], wanted: settings.Claim) -> report.Outcome:
    name = "storage"
    text = f"claim {wanted.name}"
    has = claim["spec"]["accessModes"]
    phase = (claim.get("status") or {}).get("phase", "Pending")
    if phase == "Lost":
        return report.failed(
            name, f"{text}: its volume is lost", f"delete claim {wanted.name} and install again"
        )
    missing = [mode for mode in wanted.accessModes if mode not in has]
    if missing or (wanted.create and set(has) != set(wanted.accessModes)):
        return report.failed(
            name,
            f"{text} has {', '.join(has)}, the values want {', '.join(wanted.accessModes)}",
            f"set storage.pvc.accessModes={{{','.join(has)}}}, or use another claim: "
            "access modes cannot change",
        )
    if wanted.create:
        size = claim["spec"]["resources"]["requests"]["storage"]
        if workstation.quantity(wanted.size) < workstation.quantity(size):
            return report.failed(
                name,
                f"{text} has {size}, the values want {wanted.size}",
                f"set storage.pvc.size={size}: a claim cannot shrink",
            )
    if phase == "Pending":
        return report.warning(
            name,
            f"{text} is not bound yet",
            f"if agents stay Pending, see kubectl describe pvc {wanted.name}",
        )
    return report.ok(name, f"{text}, {phase}, {', '.join(has)}")


def _storage_class(cluster: workstation.Cluster, wanted: settings.Claim) -> report.Outcome:
    name = "storage"
    path = workstation.path("storage.k8s.io/v1", "storageclasses")
    classes = cluster.find(path)
    known = ", ".join(sorted(found["metadata"]["name"] for found in classes)) or "none"
    if wanted.storageClassName:
        matching = [c for c in classes if c["metadata"]["name"] == wanted.storageClassName]
        problem = f"StorageClass {wanted.storageClassName!r}: not found; there are: {known}"
    else:
        matching = [c for c in classes if _is_default(c)]
        problem = f"there is no default StorageClass; there are: {known}"
    if not matching:
        return report.failed(
            name,
            problem,
            "set storage.pvc.storageClassName to one that provides ReadWriteMany volumes, "
            "or storage.pvc.existingClaim to a claim",
        )
    # As admission does: of several default classes the newest counts.
    found = max(matching, key=lambda c: str(c["metadata"].get("creationTimestamp", "")))
    text = f"StorageClass {found['metadata']['name']} ({found['provisioner']})"
    if SHARED not in wanted.accessModes:
        return report.ok(name, text)
    if found["provisioner"] in ONE_NODE_PROVISIONERS:
        return report.failed(
            name,
            f"{text} makes volumes for one node at a time",
            "set storage.pvc.storageClassName to a class of shared file systems (NFS, EFS, "
            "Filestore, CephFS, ...), or for a one-node cluster "
            "storage.pvc.accessModes={ReadWriteOnce}",
        )
    if found["provisioner"] not in SHARED_PROVISIONERS:
        return report.warning(
            name,
            f"{text}: chrek does not know whether it provides ReadWriteMany",
            f"if claim {wanted.name} stays Pending, choose another storage.pvc.storageClassName",
        )
    return report.ok(name, text)


def _is_default(storage_class: dict[str, Any]) -> bool:
    annotations = storage_class["metadata"].get("annotations") or {}
    return bool(annotations.get(DEFAULT_CLASS) == "true")
