"""How a status is written, under our CRD and under one that drops most of it."""

import copy
import json

import pytest

from chrek import errors, state
from chrek.operator import conditions, writes

VARIANT = {"name": "ab12", "uuid": "c3", "digest": "d4"}
NEW = {"phase": "Ready", "identityHash": "5941a4cb3c363457", "variants": [VARIANT]}
PUBLISHED = ("phase", "identityHash", "message")
"""What the CRD of another chart knows."""


class Server:
    """The API server's part: merge patches, resource versions, and pruning."""

    def __init__(self, *, kept=None, **status):
        metadata = {"name": "n", "namespace": "ns", "resourceVersion": "1"}
        self.item = {"metadata": metadata, "status": status}
        self.kept = kept
        self.prune = lambda status: {k: v for k, v in status.items() if k in (self.kept or status)}
        self.writes = []
        self.refusal = None

    async def patch(self, group_version, plural, namespace, name, body, **options):
        assert (group_version, namespace, name) == ("nvidia.com/v1alpha1", "ns", "n")
        self.writes.append((plural, options["subresource"], copy.deepcopy(body)))
        assert options["field_manager"] == "chrek-operator"
        metadata = self.item["metadata"]
        if self.refusal or body["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            raise errors.ApiError("refused", status=self.refusal or 409)
        part = {"status": body["status"]} if options["subresource"] else body
        before = self.item
        self.item = state.merged(self.item, part)
        self.item = {**self.item, "status": self.prune(self.item["status"])}
        if self.item != before:
            version = str(int(metadata["resourceVersion"]) + 1)
            self.item["metadata"] = {**self.item["metadata"], "resourceVersion": version}
        return copy.deepcopy(self.item)

    async def write(self, new, plural="dynamocheckpoints"):
        """As the controllers do."""
        patch = conditions.difference(state.status_of(self.item), new)
        return await writes.status(self, plural, copy.deepcopy(self.item), patch)


async def test_our_crd_costs_one_write():
    server = Server(phase="Creating", message="gone")
    assert await server.write(NEW)
    assert server.item["status"] == NEW
    assert len(server.writes) == 1
    _, subresource, body = server.writes[0]
    assert subresource == "status"
    assert body["metadata"] == {"resourceVersion": "1"}
    assert "annotations" not in server.item["metadata"]


async def test_what_a_foreign_crd_drops_stands_in_the_annotation():
    server = Server(kept=PUBLISHED)
    assert await server.write(NEW)
    assert server.item["status"] == {"phase": "Ready", "identityHash": "5941a4cb3c363457"}
    assert state.status_of(server.item) == NEW
    assert [subresource for _, subresource, _ in server.writes] == ["status", None]


async def test_an_older_crd_that_drops_a_field_of_a_variant():
    server = Server(phase="Creating")
    prune = {"name", "uuid"}
    server.prune = lambda status: {
        **status,
        "variants": [{k: v for k, v in one.items() if k in prune} for one in status["variants"]],
    }
    await server.write(NEW)
    assert server.item["status"]["variants"] == [{"name": "ab12", "uuid": "c3"}]
    assert state.status_of(server.item) == NEW


async def test_the_annotation_follows_changes_that_the_crd_keeps():
    server = Server(kept=PUBLISHED)
    await server.write(NEW)
    later = {**NEW, "phase": "Failed", "message": "lost"}
    await server.write(later)
    assert server.item["status"]["phase"] == "Failed"
    assert state.status_of(server.item) == later
    del later["message"]
    await server.write(later)
    assert state.status_of(server.item) == later


async def test_the_annotation_is_not_written_again_when_it_is_the_same():
    server = Server(kept=PUBLISHED)
    await server.write(NEW)
    before = len(server.writes)
    await writes.status(server, "dynamocheckpoints", server.item, {"phase": "Ready"})
    assert len(server.writes) == before + 1


async def test_the_annotation_goes_once_the_crd_keeps_everything():
    server = Server(kept=PUBLISHED)
    await server.write(NEW)
    server.kept = None
    later = {**NEW, "message": "hello"}
    await server.write(later)
    assert server.item["status"] == later
    assert not server.item["metadata"]["annotations"]
    server.writes.clear()
    await server.write(NEW)
    assert len(server.writes) == 1


async def test_an_operator_killed_between_both_writes_goes_on():
    server = Server(kept=PUBLISHED)
    await server.write(NEW)
    later = {**NEW, "phase": "Failed", "captures": [{"variant": "ab12", "phase": "Failed"}]}
    patch = conditions.difference(state.status_of(server.item), later)
    body = {"metadata": {"resourceVersion": "3"}, "status": patch}
    options = {"subresource": "status", "field_manager": "chrek-operator"}
    place = ("nvidia.com/v1alpha1", "dynamocheckpoints", "ns", "n")
    await server.patch(*place, body, **options)
    assert state.status_of(server.item) == NEW, "as if it had not been written"
    await server.write(later)
    assert state.status_of(server.item) == later


async def test_graphs_have_no_annotation():
    server = Server(kept=PUBLISHED)
    assert await server.write({"services": {"a": {}}}, "dynamographdeployments")
    assert len(server.writes) == 1


async def test_an_object_that_is_gone():
    server = Server()
    server.refusal = 404
    assert not await server.write(NEW)


@pytest.mark.parametrize("status", [409, 500])
async def test_other_refusals_are_told(status):
    server = Server()
    server.refusal = status
    with pytest.raises(errors.ApiError) as caught:
        await server.write(NEW)
    assert caught.value.status == status


def test_the_annotation_is_json():
    assert json.loads(state.annotation(NEW)) == NEW
