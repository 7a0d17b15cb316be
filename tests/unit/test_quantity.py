"""Bytes as Kubernetes writes them."""

import pytest

from chrek import quantity


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1.0Ki"), (1400000000, "1.3Gi"), (5 << 40, "5.0Ti")],
)
def test_sizes_for_a_person(size, text):
    assert quantity.human(size) == text
