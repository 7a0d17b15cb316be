"""Messages between the helper and its client survive the way, and others are refused."""

import typing

import msgspec
import pytest
from cuda.bindings import driver as bindings

from chrek import compatibility, names
from chrek.cuda import words

GPU = compatibility.Gpu(
    uuid="GPU-0", minor=3, model="H", memoryBytes=8, computeCapability="9.0", partitioned=True
)
NODE = words.Node(driver="580.65.06", api=13000, gpus=[GPU])
USAGE = words.Usage(uuid="GPU-0", freeBytes=5, persistence=True, processes={12: 3, 1: 0})

REQUESTS = [
    words.Start(id=1),
    words.DescribeNode(id=2),
    words.DescribeUsage(id=3),
    words.GetRestoreThread(id=4, pid=9),
    words.GetState(id=5, pid=9),
    words.Lock(id=6, pid=9, timeout_seconds=0.5),
    words.Checkpoint(id=7, pid=9),
    words.Restore(id=8, pid=9, mapping=None),
    words.Restore(id=9, pid=9, mapping={"GPU-0": "GPU-1"}),
    words.Unlock(id=10, pid=9),
]
ANSWERS = [
    words.Done(id=1),
    words.NodeAnswer(id=2, node=NODE),
    words.UsageAnswer(id=3, usage=[USAGE]),
    words.ThreadAnswer(id=4, thread=None),
    words.ThreadAnswer(id=4, thread=10),
    words.StateAnswer(id=5, state=words.State.CHECKPOINTED),
    words.Failed(id=6, message="m"),
    words.Failed(
        id=6, message="m", code="C", hint="h", reason=names.Reason.GPU_LOCK_TIMEOUT, spent=True
    ),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_requests_survive_the_way(request_):
    assert words.decode_request(words.encode(request_)) == request_
    with pytest.raises(msgspec.ValidationError):
        words.decode_answer(words.encode(request_))


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_answers_survive_the_way(answer):
    assert words.decode_answer(words.encode(answer)) == answer
    with pytest.raises(msgspec.ValidationError):
        words.decode_request(words.encode(answer))


def test_every_message_is_tried_here():
    for union, tried in ((words.Request, REQUESTS), (words.Answer, ANSWERS)):
        assert {type(each) for each in tried} == set(typing.get_args(union))


@pytest.mark.parametrize(
    "message",
    [
        {"type": "GetState", "id": 1},
        {"type": "GetState", "id": 1, "pid": "9"},
        {"type": "GetState", "id": 1, "pid": 9, "more": 1},
        {"type": "Reset", "id": 1},
        {"id": 1},
        [],
    ],
)
def test_other_messages_are_refused(message):
    with pytest.raises(msgspec.ValidationError):
        words.decode_request(msgspec.msgpack.encode(message))


def test_a_large_node_fits_into_a_message():
    gpus = [
        compatibility.Gpu(
            uuid=f"GPU-{n:032}", minor=n, model="x" * 96, memoryBytes=1, computeCapability="9.0"
        )
        for n in range(16)
    ]
    node = words.Node(driver="580.65.06", api=13000, gpus=gpus)
    processes = {1 << 22 | n: 1 << 40 for n in range(500)}
    usage = [
        words.Usage(uuid=gpu.uuid, freeBytes=1, persistence=True, processes=processes)
        for gpu in gpus
    ]
    for answer in (words.NodeAnswer(id=1, node=node), words.UsageAnswer(id=1, usage=usage)):
        # What a socket takes at once without a setting of its own (net.core.wmem_default).
        assert len(words.encode(answer)) < 212992 < words.MOST_BYTES


def test_states_are_the_drivers():
    known = {name.removeprefix("CU_PROCESS_STATE_") for name in bindings.CUprocessState.__members__}
    # The two are of callers that store device memory themselves.
    assert {state.name for state in words.State} == known - {"CHECKPOINTING", "RESTORING"}


def test_gpus_are_selected_in_the_nodes_order():
    gpus = [msgspec.structs.replace(GPU, uuid=f"GPU-{n}", minor=n) for n in range(4)]
    node = words.Node(driver="", api=0, gpus=gpus)
    assert node.select(["GPU-3", "GPU-1", "GPU-9"]) == [gpus[1], gpus[3]]
    assert node.select([]) == []
