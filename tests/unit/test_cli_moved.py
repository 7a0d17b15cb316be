"""Records of `chrek copy`, `export` and `import`."""

import jsonschema
import msgspec
import pytest

from chrek import transfer
from chrek.cli import moved, records

DONE = transfer.Moved(("0123456789abcdef", "aaaa", "1-2"), "sha256:0", 3_000_000)


def test_what_was_moved_has_a_rate():
    found = msgspec.to_builtins(moved.of(DONE, 1.50049))
    assert found == {
        "path": "0123456789abcdef/aaaa/1-2",
        "hash": "0123456789abcdef",
        "variant": "aaaa",
        "uuid": "1-2",
        "digest": "sha256:0",
        "bytes": 3_000_000,
        "already": False,
        "seconds": 1.5,
        "bytesPerSecond": 1_999_347,
    }


@pytest.mark.parametrize(("already", "rate"), [(False, 3_000_000_000), (True, 0)])
def test_what_took_no_time(already, rate):
    done = transfer.Moved(DONE.path, DONE.digest, DONE.bytes, already=already)
    assert moved.of(done, 0.0).bytes_per_second == rate


@pytest.mark.parametrize("command", ["copy", "export", "import"])
def test_it_is_what_the_schema_says(command):
    failure = moved.Failure(path="x", error="damaged")
    record = moved.Movement(artifacts=[moved.of(DONE, 1)], failed=[failure])
    jsonschema.validate(msgspec.to_builtins(record), records.schema(command))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"artifacts": [{}], "failed": []}, records.schema(command))
