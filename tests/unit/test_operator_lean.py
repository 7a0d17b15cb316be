"""kopf's stream without managedFields, through kopf's own function."""

from kopf._cogs.clients import watching

from chrek.operator import lean


async def collected(stream):
    return [event async for event in stream]


async def test_managed_fields_go_and_all_else_stays(monkeypatch):
    metadata = {"name": "a", "managedFields": [{"manager": "kubectl"}]}

    async def stream(**_):
        yield {"type": None, "object": {"metadata": metadata, "spec": {"a": 1}}}
        yield watching.Bookmark.LISTED
        yield {"type": "BOOKMARK", "object": {"kind": "Pod"}}

    monkeypatch.setattr(watching, "continuous_watch", stream)
    lean.install()
    lean.install()
    assert watching.continuous_watch.__wrapped__ is stream, "once, however often it is asked for"
    assert await collected(watching.continuous_watch(resource="pods")) == [
        {"type": None, "object": {"metadata": {"name": "a"}, "spec": {"a": 1}}},
        watching.Bookmark.LISTED,
        {"type": "BOOKMARK", "object": {"kind": "Pod"}},
    ]
