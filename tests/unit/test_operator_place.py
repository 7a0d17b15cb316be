"""Where artifacts are."""

import pytest

from chrek import config
from chrek.operator import place

HASH = "5941a4cb3c363457"
URI = "s3://minio.example.com:9000/bucket/p"


@pytest.mark.parametrize(
    ("kind", "base"), [("pvc", "/ckpt"), ("s3", URI), ("oci", "oci://r.example.com/team")]
)
@pytest.mark.parametrize(("namespace", "below"), [("team", ""), ("other", "/ns/other")])
def test_locations(kind, base, namespace, below):
    """What the other kinds of store have is left alone, and so is a slash at the end."""
    storage = config.Storage(
        type=kind,
        pvc=config.Pvc(basePath="/ckpt/"),
        s3=config.S3(uri=f"{URI}/", endpoint="https://elsewhere"),
        oci=config.Oci(uri="oci://r.example.com/team/"),
    )
    where = place.of(storage, namespace=namespace, own="team")
    assert where.location(HASH) == f"{base}{below}/{HASH}"
    assert where.storage_type == kind
