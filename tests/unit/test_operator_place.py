"""Where artifacts are."""

import pytest

from chrek import config
from chrek.operator import place


@pytest.mark.parametrize(
    ("namespace", "location"),
    [("team", "/ckpt/5941a4cb3c363457"), ("other", "/ckpt/ns/other/5941a4cb3c363457")],
)
def test_locations(namespace, location):
    storage = config.Storage(pvc=config.Pvc(basePath="/ckpt/"))
    where = place.of(storage, namespace=namespace, own="team")
    assert where.location("5941a4cb3c363457") == location
    assert where.storage_type == "pvc"
