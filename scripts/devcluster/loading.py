"""Giving image archives to nodes, each once, and to a late node too.

The cluster keeps every loaded archive as a hard link (a copy where that cannot be), named by
its digest. Each node has a file that says which digest every reference came from.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
from pathlib import Path

from devcluster import addresses, cache, errors, images, nodes, processes, steps

MANAGED_SECONDS = 15.0


def load(where: cache.Cache, records: processes.Records, path: Path) -> images.Archive:
    """Keep an archive and import it into every running node."""
    archive = images.read(path)
    keep(where, archive)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        jobs = [pool.submit(import_all, where, records, node) for node in nodes.running(records)]
        for job in jobs:
            job.result()
    return archive


def keep(where: cache.Cache, archive: images.Archive) -> None:
    """Remember an archive for nodes to come; one whose every name it takes over is dropped."""
    where.images.mkdir(parents=True, exist_ok=True)
    target = where.images / f"{archive.digest}.tar"
    if not target.exists():
        try:
            os.link(archive.path, target)
        except OSError:
            # Another file system, or a file that may not be linked.
            draft = target.with_suffix(".draft")
            shutil.copyfile(archive.path, draft)
            draft.replace(target)
    catalog = _read(where.images / "catalog.json")
    catalog.update(dict.fromkeys(archive.references, archive.digest))
    _write(where.images / "catalog.json", catalog)
    for kept in where.images.glob("*.tar"):
        if len(kept.stem) == len(archive.digest) and kept.stem not in catalog.values():
            kept.unlink()


def catalog(where: cache.Cache) -> dict[str, str]:
    """Mapping of image reference to the digest of the archive it comes from."""
    return _read(where.images / "catalog.json")


def import_all(where: cache.Cache, records: processes.Records, node: addresses.Node) -> None:
    """Import what a node has not yet."""
    journal = where.nodes / node.name / "imported.json"
    wanted = catalog(where)
    present = _read(journal)
    digests = sorted({digest for name, digest in wanted.items() if present.get(name) != digest})
    for digest in digests:
        path = where.images / f"{digest}.tar"
        names = [name for name, known in wanted.items() if known == digest]
        archive = images.read(path)
        if archive.digest != digest:
            raise errors.ClusterError(
                f"the archive of {', '.join(names)} was overwritten since it was loaded",
                hint="load it again, and let its builder write a new file and rename it",
            )
        with path.open("rb") as content:
            nodes.run_inside(
                records, node, ["ctr", "--namespace=k8s.io", "images", "import", "-"],
                stdin=content,
            )  # fmt: skip
        steps.wait_until(
            lambda: _managed(records, node, names),  # noqa: B023
            f"the kubelet's view of node {node.name} has {', '.join(names)}",
            timeout_seconds=MANAGED_SECONDS,
        )
        present.update(dict.fromkeys(names, digest))
        _write(journal, present)


def _managed(records: processes.Records, node: addresses.Node, names: list[str]) -> bool:
    """Whether containerd's CRI plugin has taken notice of images; it does so with a delay."""
    query = 'labels."io.cri-containerd.image"==managed'
    try:
        listed = nodes.run_inside(
            records, node, ["ctr", "--namespace=k8s.io", "images", "list", "--quiet", query]
        )
    except errors.CommandError:
        return False
    known = set(listed.split())
    # A name without a registry gets the default one in front of it.
    return all(any(one == name or one.endswith(f"/{name}") for one in known) for name in names)


def _read(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}


def _write(path: Path, content: dict[str, str]) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content, indent=2, sort_keys=True))
    draft.replace(path)
