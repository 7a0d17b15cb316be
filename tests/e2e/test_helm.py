"""`helm test` says whether chrek works here: yes, and no when restore is broken."""

from __future__ import annotations

import contextlib

from e2e import fault, place
from showcase import setup


def test_helm_test_passes(here: place.Place) -> None:
    said = here.live.helm(
        "test", setup.RELEASE, f"--namespace={here.namespace}", "--timeout=4m", timeout=300
    )
    assert "Succeeded" in said, said


def test_helm_test_fails_when_restore_is_broken(here: place.Place) -> None:
    # Only restores use the staging folder: nothing can be created in a folder of sysfs.
    with contextlib.ExitStack() as stack:
        for node in ("n1", "n2"):
            stack.enter_context(fault.replaced_in_agent(here, node, "/run/chrek", "/sys/kernel"))
        said = here.live.helm(
            "test", setup.RELEASE, f"--namespace={here.namespace}", "--timeout=4m",
            check=False, timeout=300,
        )  # fmt: skip
    assert "Phase:          Failed" in said or "Error:" in said, said


def test_helm_test_leaves_nothing(here: place.Place) -> None:
    left = here.live.kubectl(
        "get", "dckpt,pods", f"--namespace={here.namespace}", "-o", "name", check=False
    )
    assert "round-trip" not in left.replace(f"{setup.RELEASE}-test-round-trip", "")
