"""Completion in bash, zsh and fish, and in kubectl: click's, with what it leaves out.

A script asks `chrek` itself, by a variable of the environment. kubectl starts what PATH has as
`kubectl_complete-chrek` and reads what programs made with Cobra print
(https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/).
"""

from __future__ import annotations

import logging
import os
import sys
from typing import ClassVar

import click
from click import shell_completion

from chrek import cli

VARIABLE = "_CHREK_COMPLETE"
_NO_FILES, _FILES, _DIRECTORIES = 4, 0, 16
"""Cobra's directives."""

# Unlike click's it sends the line as it was typed: bash takes words apart at `:` and `=`, which are
# in names of contexts and between options and values, and puts the last part only in place.
_BASH = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

Item = shell_completion.CompletionItem[str]


class Bash(shell_completion.BashComplete):
    """bash 4.4 or later."""

    source_template: ClassVar[str] = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = shell_completion.split_arg_string(line)
        # A blank after the last word, unless it is part of it.
        if line[-1:].isspace() and not (words and words[-1][-1:].isspace()):
            words.append("")
        return words[1:-1], words[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        found = _whole(super().get_completions(args, incomplete), incomplete)
        breaks = os.environ.get("COMP_WORDBREAKS", "")
        start = max(incomplete.rfind(mark) + 1 if mark in breaks else 0 for mark in ":=")
        for item in found:
            if item.type == "plain":
                item.value = item.value[start:]
        return found

    def source(self) -> str:
        # Click's looks for bash first, and would say on stderr that it is old.
        return self.source_template % self.source_vars()


class Zsh(shell_completion.ZshComplete):
    """zsh."""

    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        return _whole(super().get_completions(args, incomplete), incomplete)


class Fish(shell_completion.FishComplete):
    """fish."""

    # What a command does may have commas in it.
    source_template: ClassVar[str] = shell_completion.FishComplete.source_template.replace(
        'string split ","', 'string split --max 1 ","'
    )

    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        return _whole(super().get_completions(args, incomplete), incomplete)


SHELLS: dict[str, type[shell_completion.ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}


def _whole(found: list[Item], incomplete: str) -> list[Item]:
    """The words that are to stand in the line: with `--option=` before a value."""
    option, equals, _ = incomplete.partition("=")
    if equals and option.startswith("-"):
        for item in found:
            if item.type == "plain":
                item.value = f"{option}={item.value}"
    return found


def script(shell: str) -> str:
    """What a shell is to read."""
    return SHELLS[shell](cli.main, {}, "chrek", VARIABLE).source()


def prepare() -> None:
    """Have click use these, and nobody write into the line that is being typed."""
    for made in SHELLS.values():
        shell_completion.add_completion_class(made)
    logging.disable()


def kubectl() -> None:
    """`kubectl_complete-chrek WORD...`: what may stand in place of the last word."""
    logging.disable()
    words = sys.argv[1:] or [""]
    for line in answers(cli.main, words):
        click.echo(line)


def answers(command: click.Command, words: list[str]) -> list[str]:
    """The lines of a program made with Cobra, for all words behind the command's name."""
    shell = shell_completion.ShellComplete(command, {}, "kubectl chrek", VARIABLE)
    found = shell.get_completions(words[:-1], words[-1])
    lines = [
        f"{item.value}\t{' '.join(item.help.split())}" if item.help else item.value
        for item in found
        if item.type == "plain"
    ]
    kinds = {item.type for item in found}
    directive = _FILES if "file" in kinds else _DIRECTORIES if "dir" in kinds else _NO_FILES
    return [*lines, f":{directive}"]
