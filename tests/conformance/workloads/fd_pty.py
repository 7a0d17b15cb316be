"""A pseudo-terminal with both ends, settings and content."""

import os
import select
import termios


def setup():
    leader, follower = os.openpty()
    settings = termios.tcgetattr(follower)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(follower, termios.TCSANOW, settings)
    termios.tcsetwinsize(follower, (40, 100))
    os.write(leader, b"typed\n")
    return leader, follower


def check(state):
    leader, follower = state
    said = os.read(follower, 100)
    os.write(leader, said)
    echo = bool(termios.tcgetattr(follower)[3] & termios.ECHO)
    quiet = not select.select([leader], [], [], 0)[0]
    return {
        "said": said.decode(),
        "echo": echo,
        "size": termios.tcgetwinsize(follower),
        "quiet": quiet,
    }
