"""`chrek completion`: what a shell reads to complete the rest."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what has a shell complete commands, options and names.

    Names of checkpoints, pods, workloads and namespaces come from the cluster that -n and --context
    mean, if it answers within two seconds. bash must be 4.4 or later.

    kubectl completes `kubectl chrek` without this, once `source <(kubectl completion bash)` was
    done: it finds kubectl_complete-chrek on PATH.

    \b
    Example:
      $ source <(chrek completion bash)
      $ source <(chrek completion zsh)
      $ chrek completion fish > ~/.config/fish/completions/chrek.fish
    """  # noqa: D301 - click wants the character, not the text
    from chrek.cli import shells

    click.echo(shells.script(shell), nl=False)
