"""Checkpoints, Jobs and pods as controllers see them, and a cluster of them for pure functions.

`Cluster.look` is one reconciliation: what `status.following` decides is written, or done once there
is nothing to write. Writes on old copies are refused and names are taken, as a server does it.
"""

from __future__ import annotations

import copy
import datetime
import json

from chrek import identity, variant
from chrek.operator import (
    captures,
    conditions,
    housekeeping,
    jobs,
    place,
    pods,
    status,
    summary,
    templates,
)

NOW = datetime.datetime(2026, 1, 29, 10, 5, tzinfo=datetime.UTC)
IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm"}
KNOWN = identity.parse(IDENTITY)
HASH = KNOWN.hash()
WHERE = place.Place("pvc", "/checkpoints")
COMMAND = ["python3", "-m", "dynamo.vllm"]
CRIU = {"reason": "CriuFailed", "message": "criu dump:\nexit status 1\n"}
FULL = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def container(image="llama:1"):
    return {"name": "main", "image": image, "command": COMMAND}


def template(image="llama:1", **spec):
    return {"spec": {"containers": [container(image)], **spec}}


def wanted(image="llama:1", job=None, **spec):
    return templates.wanted(template(image, **spec), job=job)


def name_of(image="llama:1"):
    return variant.of_container(container(image))


def success(uuid="u-1", image="llama:1", **fields):
    return {
        "uuid": uuid,
        "variant": name_of(image),
        "digest": "d-1",
        "location": "/checkpoints/x",
        "bytes": 3 << 30,
        "node": "n1",
        "image": image,
        "steps": {"dump": 1.5},
        "createdAt": "2026-01-29T10:05:00Z",
        **fields,
    }


def checkpoint(name="c", job=None, spec=None, auto=False, **metadata):
    """A DynamoCheckpoint with a pod template of its own unless `spec` is without a job."""
    labels = {"nvidia.com/chrek-auto": "true"} if auto else {}
    body = {"identity": IDENTITY, "job": {"podTemplateSpec": template(), **(job or {})}}
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoCheckpoint",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": f"{name}-uid",
            "generation": 1,
            "creationTimestamp": "2026-01-29T10:00:00Z",
            "labels": labels,
            **metadata,
        },
        "spec": body if spec is None else {"identity": IDENTITY, **spec},
    }


def job(*ended, name="j", uid="j1", attempt="", owner="c-uid", at="2026-01-29T10:05:00Z"):
    made = [
        {
            "type": kind,
            "status": "True",
            "reason": "BackoffLimitExceeded" if kind == "Failed" else "",
            "message": "too often",
            "lastTransitionTime": at,
        }
        for kind in ended
    ]
    metadata = {"namespace": "ns", "name": name, "uid": uid}
    metadata["annotations"] = {jobs.ANNOTATION_ATTEMPT: attempt}
    metadata["ownerReferences"] = [{"controller": True, "uid": owner}]
    return {"metadata": metadata, "status": {"conditions": made}}


def pod_object(
    uid="p1",
    phase="Running",
    *,
    source=True,
    owner="j1",
    result=None,
    start=None,
    ready=False,
    waits="",
    why="",
    image="llama:1",
    node="",
    deleted=False,
    created="2026-01-29T10:05:00Z",
    labels=None,
    annotations=None,
):
    """A managed pod as the API server shows it."""
    found = {"nvidia.com/chrek-managed": "true", **(labels or {})}
    notes = {} if source else {"nvidia.com/chrek-checkpoint": HASH}
    notes |= annotations or {}
    if source:
        found["nvidia.com/chrek-is-checkpoint-source"] = "true"
    for key, value in (("result", result), ("start", start)):
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            notes[f"nvidia.com/chrek-{key}"] = text
    metadata = {"namespace": "ns", "name": f"pod-{uid}", "uid": uid, "creationTimestamp": created}
    metadata |= {"labels": found, "annotations": notes}
    if owner:
        metadata["ownerReferences"] = [{"controller": True, "uid": owner}]
    if deleted:
        metadata["deletionTimestamp"] = created
    seen = [{"type": "Ready", "status": str(ready)}]
    if waits:
        refused = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        seen.append({**refused, "message": waits})
    made = container(image)
    made["command"] = ["/chrek/chrek-init", "--source", "--", *COMMAND]
    return {
        "metadata": metadata,
        "spec": {"containers": [made], **({"nodeName": node} if node else {})},
        "status": {"phase": phase, "reason": why, "conditions": seen},
    }


def pod(*args, **fields):
    return pods.project(pod_object(*args, **fields))


def worker(uid, outcome="cold", *, ready=True, reason="CheckpointNotReady", **fields):
    """A serving pod that opted in."""
    given = {k: fields.pop(k) for k in ("uuid", "at", "message") if k in fields}
    start = {"outcome": outcome, "reason": reason, **given} if outcome else None
    return pod(uid, source=False, owner="rs", start=start, ready=ready, **fields)


class Cluster:
    """One checkpoint and what there is besides.

    Attributes:
        item: the checkpoint as the server has it.
        jobs: by name; `pods` by the UID of their Job.
        seen: what the operator's memory has of the three; `sync` brings it up to date.
        created: attempts for which a Job was created, in order.
        writes: how often the status was written.
        refusal: why no capture may begin; `removals` and `users` as housekeeping tells them.
    """

    def __init__(self, item=None, *, wanted=(), where=WHERE):
        self.item = item or checkpoint()
        self.wanted = list(wanted)
        self.where = where
        self.workers = []
        self.jobs, self.pods = {}, {}
        self.now = NOW
        self.created, self.ended, self.deleted = [], [], []
        self.writes = 0
        self.complete = True
        self.refusal, self.removals, self.users = "", {}, housekeeping.Users()
        self._uids = 0
        self.version = 0
        self.sync()

    def own(self):
        section = self.item["spec"].get("job") or {}
        if "podTemplateSpec" not in section:
            return []
        return [templates.wanted(section["podTemplateSpec"], job=section)]

    def sync(self):
        self.seen = copy.deepcopy((self.item, self.jobs, self.pods, self.version))

    def decide(self):
        item, found, of_job, _ = self.seen
        before = copy.deepcopy(item)
        world = status.World(
            job=found.get,
            pods_of=lambda uid: of_job.get(uid, []),
            workers=self.workers,
            wanted=[*self.own(), *self.wanted],
            where=self.where,
            now=self.now,
            complete=self.complete,
            room=lambda: self.refusal,
            removals=self.removals,
            users=self.users,
        )
        decision = status.following(item, KNOWN, world)
        assert item == before, "the argument is not changed"
        return decision

    def look(self, *, sync=True, killed=False):
        """Reconcile once.

        Args:
            sync: whether the operator's memory is up to date.
            killed: whether it ends before it does what it has decided after the write.
        """
        if sync:
            self.sync()
        decision = self.decide()
        if conditions.difference(self.seen[0].get("status") or {}, decision.status):
            if self.seen[3] == self.version:
                self.item = {**self.item, "status": copy.deepcopy(decision.status)}
                self.version += 1
                self.writes += 1
            return decision
        for action, name in () if killed else decision.actions:
            self._act(action, name, decision.status)
        return decision

    def settle(self, most=20):
        """Reconcile until nothing is written and nothing done; returns the status."""
        for _ in range(most):
            before = (self.version, len(self.created), len(self.deleted))
            self.look()
            if before == (self.version, len(self.created), len(self.deleted)):
                return self.item["status"]
        raise AssertionError(f"it never comes to rest: {self.item['status']}")

    def _act(self, action, name, found):
        entry = next(e for e in summary.entries(found) if e["variant"] == name)
        of = entry.get("jobName", "")
        if action is captures.Action.CREATE_JOB:
            if of not in self.jobs:
                self._uids += 1
                uid = f"{of}#{self._uids}"
                self.jobs[of] = job(name=of, uid=uid, attempt=entry["attempt"])
                self.created.append(entry["attempt"])
        elif action is captures.Action.DELETE_JOB:
            gone = self.jobs.pop(of, None)
            if gone:
                self.deleted.append(of)
                self.pods.pop(gone["metadata"]["uid"], None)
        elif action is captures.Action.END_JOB:
            self.ended.append(of)

    def run(self, name="", **fields):
        """A pod of a Job appears, or becomes another."""
        uid = self.jobs[name or f"checkpoint-{HASH}"]["metadata"]["uid"]
        made = pod(fields.pop("uid", f"{uid}/p"), fields.pop("phase", "Running"), **fields)
        others = [one for one in self.pods.get(uid, []) if one.uid != made.uid]
        self.pods[uid] = [*others, made]

    def end(self, kind="Complete", name="", at="2026-01-29T10:05:00Z"):
        """A Job ends."""
        name = name or f"checkpoint-{HASH}"
        old = self.jobs[name]["metadata"]
        attempt = old["annotations"][jobs.ANNOTATION_ATTEMPT]
        self.jobs[name] = job(kind, name=name, uid=old["uid"], attempt=attempt, at=at)

    def capture(self, name="", uuid="u-1", image="llama:1"):
        """The whole of a capture that succeeds."""
        self.settle()
        self.run(name, image=image)
        self.settle()
        self.run(name, phase="Succeeded", image=image, result=success(uuid, image))
        self.end(name=name)
        return self.settle()
