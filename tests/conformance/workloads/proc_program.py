"""A child that runs another program, with arguments and an environment."""

import subprocess


def setup():
    child = subprocess.Popen(
        ["sh", "-c", "while read line; do echo $GREETING $line; done"],
        env={"GREETING": "hello"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    return child


def check(state):
    state.stdin.write(b"you\n")
    state.stdin.flush()
    return {"said": state.stdout.readline().decode(), "pid": state.pid, "ended": state.poll()}
