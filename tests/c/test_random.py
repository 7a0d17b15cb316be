"""An agent that has gone mad: whatever it says, the pod starts, cold or anew."""

from __future__ import annotations

import contextlib
import pathlib
import random

import pytest

from c.container import Agent, Container

VERBS = (
    *("nonce", "cold", "failed", "restoring", "progress", "restored"),
    *("capture", "dumping", "resumed", "committed", "chrek", "started", ""),
)
WORDS = ("0", "5", "1", "10000", "exit", "exec", "Reason", "ab:c", "-1", "", "\t", "x" * 70)


def line(chance: random.Random) -> bytes:
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(2000))
    # The likely openings come often, so that the later states are reached.
    opening = ("restoring 1 10000 exit", "restoring 1 10000 exec", "capture", "dumping")
    if chance.random() < 0.4:
        return chance.choice(opening).encode() + b"\n"
    words = [chance.choice(VERBS), *chance.choices(WORDS, k=chance.randrange(4))]
    return " ".join(words).encode() + b"\n"


@pytest.mark.parametrize("mode", ["start", "source"])
@pytest.mark.parametrize("seed", range(30))
def test_random_speech(
    sanitized: pathlib.Path, superuser: None, tmp_path: pathlib.Path, mode: str, seed: int
) -> None:
    chance = random.Random(seed)
    flags = ["--source"] if mode == "source" else []
    command = ["sh", "-c", "exit 42"] if mode == "start" else ["sleep", "0.2"]
    program = [str(sanitized / "chrek-init"), *flags, "--wait", "0", "--socket"]
    with (
        Agent(tmp_path) as agent,
        Container([*program, str(tmp_path / "agent.sock"), "--", *command]) as running,
    ):
        connection = agent.accept(f"chrek 1 {mode}")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(chance.randrange(1, 12)):
                connection.send(line(chance))
        connection.close()
        agent.leave()
        code, _, err = running.end()
    assert code in ((42, 75) if mode == "start" else (75, 0))
    assert all(text.startswith("chrek: ") for text in err.splitlines()), err
    assert err.replace("\n", "").isprintable()
