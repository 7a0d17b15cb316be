"""`chrek copy`: see `transfer_commands`."""

from __future__ import annotations

from chrek.cli import transfer_commands

command = transfer_commands.copy
