"""The table of rights in the chart's README, and the roles that give them."""

from __future__ import annotations

import dataclasses
import re

from chart import rendered

BEGIN, END = "## Who may use it\n", "\n## "


@dataclasses.dataclass(frozen=True)
class Row:
    """What a command needs: rights such as `list pods`, by the least of Kubernetes' roles."""

    role: str
    needs: set[str]
    more: set[str]


def section():
    text = (rendered.CHART / "README.md").read_text()
    return text.partition(BEGIN)[2].partition(END)[0]


def table():
    """Command as the table calls it -> its row."""
    rows = {}
    for line in section().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            commands, role, needs, more = cells
            for name in _code(commands):
                rows[name] = Row(role, _code(needs), _code(more))
    return rows


def _code(cell):
    return set(re.findall(r"`([^`]+)`", cell))


def aggregated(document):
    """Whether Kubernetes adds a role to its own."""
    return any("/aggregate-to-" in label for label in document["metadata"]["labels"])
