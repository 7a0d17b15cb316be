"""JSON patch (RFC 6902) as the API server applies it, with add, replace, remove and test."""

import copy


class TestFailedError(Exception):
    """An object is not as a patch expects it."""


def applied(item, patch):
    """The object after a patch."""
    item = copy.deepcopy(item)
    for step in patch:
        *parents, last = (
            part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]
        )
        place = item
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        key = int(last) if isinstance(place, list) else last
        if step["op"] == "test":
            if place.get(last) != step["value"]:
                raise TestFailedError(step)
            continue
        if step["op"] in ("replace", "remove"):
            assert place[key] is not None
        if step["op"] == "remove":
            del place[key]
        else:
            place[key] = step["value"]
    return item
