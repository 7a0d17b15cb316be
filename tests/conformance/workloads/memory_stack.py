"""A deep stack in a thread that is in the middle of it."""

import threading


def setup():
    asked, told, answers = threading.Semaphore(0), threading.Semaphore(0), []

    def down(depth):
        local = bytes([depth % 251]) * 64
        if depth:
            below = down(depth - 1)
            return below + local[depth % 64]
        while True:
            asked.acquire()
            answers.append(local[0] + len(answers))
            told.release()

    threading.stack_size(64 << 20)
    threading.Thread(target=down, args=(600,), daemon=True).start()
    return asked, told, answers


def check(state):
    asked, told, answers = state
    asked.release()
    told.acquire()
    return {"answers": len(answers), "last": answers[-1]}


def compare(before, after):
    assert after == {"answers": before["answers"] + 1, "last": before["last"] + 1}
