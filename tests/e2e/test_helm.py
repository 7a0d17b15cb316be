"""`helm test` says whether chrek works here: yes, and no when restore is broken."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from e2e import documented, fault, place
from showcase import setup


def table(said: str) -> dict[str, str]:
    """The table in the log that `helm test --logs` printed: step -> note."""
    _, found, log = said.partition("POD LOGS: ")
    assert found, said
    lines = log.splitlines()
    begin = next((n for n, line in enumerate(lines) if re.match(r"step +seconds  note$", line)), -1)
    assert begin >= 0, said
    header = lines[begin]
    seconds, note = header.index("seconds"), header.index("note")
    rows = [line for line in lines[begin + 1 :] if line and not line.startswith("round-trip: ")]
    return {line[:seconds].strip(): line[note:].strip() for line in rows}


def run(here: place.Place, *, check: bool = True) -> str:
    return here.live.helm(
        "test", setup.RELEASE, f"--namespace={here.namespace}", "--logs", "--timeout=4m",
        check=check, timeout=300,
    )  # fmt: skip


def test_helm_test_passes(here: place.Place, tmp_path: Path) -> None:
    desk = documented.Desk.of(here.live, here.namespace, tmp_path / "desk")
    said = desk.type(documented.one("helm test chrek --namespace my-team --logs"), timeout=330)
    assert "Succeeded" in said, said
    assert "\nround-trip: passed: memory and files came back" in said, said
    rows = table(said)
    assert not any("FAILED" in note or "given up" in note for note in rows.values()), said
    captured = re.match(
        r"nonce (\w{8}), count \d+, 8 MiB (\w{8});", rows["capture: worker answers"]
    )
    again = re.match(r"nonce (\w{8}), count \d+, 8 MiB (\w{8})", rows["restore: memory compared"])
    assert captured, said
    assert again, said
    assert captured.groups() == again.groups()
    # One in each place, and one that is deleted but open.
    assert rows["restore: files compared"] == "4 in /tmp, /files, /dev/shm"
    cold = re.match(r"CheckpointNotFound on node n[12], nonce (\w{8})$", rows["cold: pod ready"])
    assert cold, said
    assert cold[1] != captured[1]


def test_helm_test_goes_to_another_node(here: place.Place) -> None:
    said = run(here)
    rows = table(said)
    nodes = re.fullmatch(r"two: captured on (n[12]), restored on (n[12])", rows["nodes"])
    assert nodes, said
    assert nodes[1] != nodes[2]
    assert rows["capture: checkpoint ready"].endswith(f"on node {nodes[1]}")
    assert rows["restore: pod restored"] == f"on node {nodes[2]}"
    assert re.fullmatch(r"pvc /checkpoints/[0-9a-f]{16}, read from the volume", rows["store"]), said
    # What the agent of its node says.
    assert rows["gpu"].startswith("not tested: "), said


def test_helm_test_fails_when_restore_is_broken(here: place.Place) -> None:
    # Only restores use the staging folder: nothing can be created in a folder of sysfs.
    with contextlib.ExitStack() as stack:
        for node in ("n1", "n2"):
            stack.enter_context(fault.replaced_in_agent(here, node, "/run/chrek", "/sys/kernel"))
        said = run(here, check=False)
    assert "Phase:          Failed" in said or "Error:" in said, said
    assert "\nround-trip: the pod started cold: " in said, said
    rows = table(said)
    assert re.fullmatch(r"FAILED: \w+", rows["restore: pod restored"]), said
    assert "FAILED" not in rows["capture: checkpoint ready"], said


def test_helm_test_leaves_nothing(here: place.Place) -> None:
    left = here.live.kubectl(
        "get", "dckpt,pods", f"--namespace={here.namespace}", "-o", "name", check=False
    )
    assert "round-trip" not in left.replace(f"{setup.RELEASE}-test-round-trip", "")
