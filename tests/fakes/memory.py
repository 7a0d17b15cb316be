"""An API server in memory with the client's own methods, and the controllers' cache of it.

It does what controllers rely on: names are unique, old resourceVersions and other UIDs are refused,
the status is a subresource, finalizers hold an object. `refusals` makes it answer with an error.
"""

from __future__ import annotations

import copy
import types

from chrek import errors, state
from chrek.kube import client as kube
from chrek.operator import controllers, deletion, platform, queue

CREATED = "2026-01-29T10:05:00Z"


class Api:
    """The part of `kube.Client` that the operator's controllers use.

    Attributes:
        objects: by `(plural, namespace, name)`.
        calls: `(verb, plural, name)` of every write that was let through, Events left out.
        events: `(type, reason, note)` of the Events.
        refusals: `(verb, plural)` -> the error to raise; a verb may be `dry-run`.
    """

    def __init__(self):
        self.objects = {}
        self.calls = []
        self.events = []
        self.refusals = {}
        self._version = 0

    def add(self, plural, item, **metadata):
        """Put an object there, as it is."""
        item = copy.deepcopy(item)
        item["metadata"] |= {"resourceVersion": self._next(), **metadata}
        self.objects[plural, item["metadata"]["namespace"], item["metadata"]["name"]] = item
        return item

    def of(self, plural):
        return [item for key, item in self.objects.items() if key[0] == plural]

    def one(self, plural, name):
        return self.objects.get((plural, "ns", name))

    def _next(self):
        self._version += 1
        return str(self._version)

    def _check(self, verb, plural):
        if (verb, plural) in self.refusals:
            raise self.refusals[verb, plural]

    async def create(self, group_version, plural, namespace, body):
        if plural == "events":
            self.events.append((body["type"], body["reason"], body["note"]))
            return body
        self._check("create", plural)
        key = plural, namespace, body["metadata"]["name"]
        if key in self.objects:
            raise errors.ApiError(f"{plural} {key[2]!r} already exists", status=409)
        self.calls.append(("create", plural, key[2]))
        made = {"namespace": namespace, "uid": f"uid-{self._next()}", "generation": 1}
        return copy.deepcopy(self.add(plural, body, **made, creationTimestamp=CREATED))

    async def find(self, group_version, plural, namespace, name):
        return copy.deepcopy(self.objects.get((plural, namespace, name)))

    async def get(self, group_version, plural, namespace, name):
        found = await self.find(group_version, plural, namespace, name)
        if found is None:
            raise errors.ApiError(f"{plural} {name!r} not found", status=404)
        return found

    async def request(self, method, path, *, query=None, body=None):
        assert (method, query) == ("POST", {"dryRun": "All"})
        self._check("dry-run", path.rpartition("/")[2])
        return body

    async def delete(self, group_version, plural, namespace, name, *, uid=None):
        self._check("delete", plural)
        item = await self.get(group_version, plural, namespace, name)
        if uid not in (None, item["metadata"]["uid"]):
            raise errors.ApiError("the UID is another", status=409)
        self.calls.append(("delete", plural, name))
        if item["metadata"].get("finalizers"):
            self.objects[plural, namespace, name]["metadata"]["deletionTimestamp"] = CREATED
        else:
            del self.objects[plural, namespace, name]

    async def patch(
        self, group_version, plural, namespace, name, body, *,
        kind=kube.PatchKind.MERGE, subresource=None, field_manager=None,
    ):  # fmt: skip
        self._check("patch", plural)
        item = await self.get(group_version, plural, namespace, name)
        if kind == kube.PatchKind.JSON:
            new = _json_patched(item, body)
        else:
            given = body.get("metadata") or {}
            for field in ("resourceVersion", "uid"):
                if given.get(field, item["metadata"][field]) != item["metadata"][field]:
                    raise errors.ApiError(f"{field} is another", status=409)
            fields = ("status",) if subresource == "status" else ("metadata", "spec")
            new = state.merged(item, {k: v for k, v in body.items() if k in fields})
        if new == item:
            return item
        self.calls.append(("patch", f"{plural}/{subresource}" if subresource else plural, name))
        if new.get("spec") != item.get("spec"):
            new["metadata"]["generation"] = item["metadata"].get("generation", 0) + 1
        new["metadata"]["resourceVersion"] = self._next()
        self.objects[plural, namespace, name] = new
        if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
            del self.objects[plural, namespace, name]
        return copy.deepcopy(new)

    def fill(self, known):
        """Bring a cache up to date, as the operator does it; what it had is replaced."""
        known.__init__()
        changes = controllers.Changes(known, queue.Queue({}, allowed=bool))
        followed = {collection.plural: collection for collection in controllers.COLLECTIONS}
        for (plural, namespace, name), stored in self.objects.items():
            if plural in followed:
                kept = followed[plural].project(copy.deepcopy(stored))
                followed[plural].changed(changes, (namespace, name), kept, None)


def _json_patched(item, operations):
    made = copy.deepcopy(item)
    for step in operations:
        parts = [p.replace("~1", "/") for p in step["path"].split("/")[1:]]
        holder = made
        for part in parts[:-1]:
            holder = holder[part]
        if step["op"] == "test":
            if holder.get(parts[-1]) != step["value"]:
                raise errors.ApiError("the test of a JSON patch failed", status=422)
        else:
            assert step["op"] == "add" or parts[-1] in holder
            holder[parts[-1]] = copy.deepcopy(step["value"])
    return made


class Deletions:
    """Deletes artifacts, or says that it does."""

    def __init__(self):
        self.asked = []
        self.outcome = deletion.Outcome("done", "deleted")

    async def run(self, namespace, paths):
        self.asked.append((namespace, list(paths)))
        return self.outcome


def owners(**fields):
    """Who reconciles what; chrek everything unless told otherwise."""
    return types.SimpleNamespace(current=platform.Platform(**fields))
