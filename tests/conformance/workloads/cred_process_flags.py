"""What prctl sets for a process: subreaper, THP, core dump filter, no_new_privs, timer slack."""

import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)
GET_SUBREAPER, SET_SUBREAPER = 37, 36
SET_NO_NEW_PRIVS, GET_NO_NEW_PRIVS = 38, 39
SET_THP_DISABLE, GET_THP_DISABLE = 41, 42


def setup():
    LIBC.prctl(SET_SUBREAPER, 1, 0, 0, 0)
    LIBC.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    LIBC.prctl(SET_THP_DISABLE, 1, 0, 0, 0)


def check(state):
    subreaper = ctypes.c_int()
    LIBC.prctl(GET_SUBREAPER, ctypes.byref(subreaper), 0, 0, 0)
    return {
        "subreaper": subreaper.value,
        "no_new_privs": LIBC.prctl(GET_NO_NEW_PRIVS, 0, 0, 0, 0),
        "thp_disable": LIBC.prctl(GET_THP_DISABLE, 0, 0, 0, 0),
    }
