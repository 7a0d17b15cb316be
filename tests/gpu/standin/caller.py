"""Calls the checkpoint API by ctypes, for a test: a line of words in, a line of numbers back.

init                      -> code
node PATH                 -> 0; the node whose files are read from now on
thread PID                -> code tid
state PID                 -> code state
lock PID MILLISECONDS     -> code
checkpoint PID            -> code
restore PID [OLD=NEW ...] -> code
unlock PID                -> code
"""

import ctypes
import os
import sys
import uuid

library = ctypes.CDLL("libcuda.so.1")
Uuid = ctypes.c_ubyte * 16


class LockArguments(ctypes.Structure):
    _fields_ = [
        ("timeout_milliseconds", ctypes.c_uint),
        ("reserved0", ctypes.c_uint),
        ("reserved1", ctypes.c_uint64 * 7),
    ]


class Pair(ctypes.Structure):
    _fields_ = [("old", Uuid), ("new", Uuid)]


class RestoreArguments(ctypes.Structure):
    _fields_ = [
        ("pairs", ctypes.POINTER(Pair)),
        ("count", ctypes.c_uint),
        ("padding", ctypes.c_uint),
        ("storage", ctypes.c_void_p),
        ("reserved", ctypes.c_char * 40),
    ]


def raw(text):
    return Uuid(*uuid.UUID(text.removeprefix("GPU-")).bytes)


def restore(pid, mapping):
    if not mapping:
        return library.cuCheckpointProcessRestore(pid, None)
    pairs = (Pair * len(mapping))()
    for pair, words in zip(pairs, mapping, strict=True):
        old, new = words.split("=")
        pair.old, pair.new = raw(old), raw(new)
    arguments = RestoreArguments(pairs=pairs, count=len(pairs))
    return library.cuCheckpointProcessRestore(pid, ctypes.byref(arguments))


def answer(words):
    number = ctypes.c_int(-1)
    match words:
        case ["init"]:
            return [library.cuInit(0)]
        case ["node", path]:
            os.environ["CHREK_STANDIN_NODE"] = path
            return [0]
        case ["thread", pid]:
            code = library.cuCheckpointProcessGetRestoreThreadId(int(pid), ctypes.byref(number))
            return [code, number.value]
        case ["state", pid]:
            code = library.cuCheckpointProcessGetState(int(pid), ctypes.byref(number))
            return [code, number.value]
        case ["lock", pid, milliseconds]:
            arguments = LockArguments(timeout_milliseconds=int(milliseconds))
            return [library.cuCheckpointProcessLock(int(pid), ctypes.byref(arguments))]
        case ["checkpoint", pid]:
            return [library.cuCheckpointProcessCheckpoint(int(pid), None)]
        case ["restore", pid, *mapping]:
            return [restore(int(pid), mapping)]
        case ["unlock", pid]:
            return [library.cuCheckpointProcessUnlock(int(pid), None)]
    raise ValueError(words)


for line in sys.stdin:
    print(*answer(line.split()), flush=True)
