"""The helper process by itself: one socket, one thread a request, and how it ends."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from chrek import names
from chrek.cuda import words
from fakes import cuda_worker

COMMAND = [sys.executable, "-P", "-m", "chrek.cuda.helper"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return cuda_worker.Machine(tmp_path_factory.mktemp("node") / "node")


@pytest.fixture(autouse=True)
def _nothing_fails(machine):
    yield
    machine.node.fail()


class Helper:
    def __init__(self, environment):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        with theirs:
            self.process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
                stderr=subprocess.PIPE,
                text=True,
            )

    def send(self, request):
        self.socket.send(words.encode(request))

    def receive(self):
        return words.decode_answer(self.socket.recv(words.MOST_BYTES))

    def ask(self, request):
        self.send(request)
        answer = self.receive()
        assert answer.id == request.id
        return answer


@pytest.fixture
def start(machine):
    with contextlib.ExitStack() as stack:

        def start(machine=machine):
            helper = Helper(machine.node.environment(machine.libraries))
            stack.callback(helper.socket.close)
            stack.callback(helper.process.communicate)
            stack.callback(helper.process.kill)
            return helper

        yield start


def test_all_requests(machine, start):
    helper = start()
    with machine.worker() as worker:
        assert helper.ask(words.Start(id=1)) == words.Done(id=1)
        node = helper.ask(words.DescribeNode(id=2)).node
        assert [gpu.uuid for gpu in node.gpus] == machine.node.uuids
        assert (node.api, node.driver) == (13000, "580.65.06")
        usage = helper.ask(words.DescribeUsage(id=3)).usage
        assert usage[0].processes == {worker.pid: worker.size}
        pid = worker.pid
        assert helper.ask(words.GetRestoreThread(id=4, pid=pid)).thread
        assert helper.ask(words.GetState(id=5, pid=pid)).state == words.State.RUNNING
        assert helper.ask(words.Lock(id=6, pid=pid, timeout_seconds=5)) == words.Done(id=6)
        assert helper.ask(words.Checkpoint(id=7, pid=pid)) == words.Done(id=7)
        assert helper.ask(words.GetState(id=8, pid=pid)).state == words.State.CHECKPOINTED
        zero, one = machine.node.uuids
        swap = {zero: one, one: zero}
        assert helper.ask(words.Restore(id=9, pid=pid, mapping=swap)) == words.Done(id=9)
        assert helper.ask(words.Unlock(id=10, pid=pid)) == words.Done(id=10)
        assert helper.ask(words.GetRestoreThread(id=11, pid=os.getpid())).thread is None
        assert worker.intact()


def test_a_failure_is_an_answer(machine, start):
    helper = start()
    with machine.worker() as worker:
        machine.node.fail("lock 600 1")
        answer = helper.ask(words.Lock(id=5, pid=worker.pid, timeout_seconds=1))
        assert (answer.code, answer.reason) == (
            "CUDA_ERROR_NOT_READY",
            names.Reason.GPU_LOCK_TIMEOUT,
        )
        assert answer.hint
        assert not answer.spent
        # And the next request is served.
        assert helper.ask(words.GetState(id=6, pid=worker.pid)).state == words.State.RUNNING


def test_answers_come_as_soon_as_they_are_there(machine, start):
    helper = start()
    helper.ask(words.Start(id=1))
    with machine.worker() as slow, machine.worker(device=1) as quick:
        machine.node.fail(f"hang lock 60 pid={slow.pid}")
        helper.send(words.Lock(id=2, pid=slow.pid, timeout_seconds=90))
        for number in range(3, 30):
            helper.send(words.GetState(id=number, pid=quick.pid))
        assert sorted(helper.receive().id for _ in range(27)) == list(range(3, 30))
        machine.node.fail()
        assert helper.receive() == words.Done(id=2)


def test_facts_come_before_the_driver_is_initialised(machine, start):
    machine.node.fail("hang init 60")
    helper = start()
    helper.send(words.Start(id=1))
    helper.send(words.GetState(id=2, pid=os.getpid()))
    assert len(helper.ask(words.DescribeNode(id=3)).node.gpus) == 2
    assert len(helper.ask(words.DescribeUsage(id=4)).usage) == 2
    machine.node.fail()
    assert sorted(helper.receive().id for _ in range(2)) == [1, 2]


@pytest.mark.parametrize("number", [100, 304, 999])
def test_a_failed_initialisation_is_told_to_all(machine, start, number):
    machine.node.fail(f"init {number} 1")
    helper = start()
    for request in (words.Start(id=1), words.GetState(id=2, pid=1), words.Unlock(id=3, pid=1)):
        answer = helper.ask(request)
        assert "initialisation failed" in answer.message
        assert answer.spent
        assert answer.reason == names.Reason.GPU_UNAVAILABLE
    assert helper.ask(words.DescribeNode(id=4)).node.driver == "580.65.06"


def test_a_driver_that_is_too_old(tmp_path, start):
    helper = start(cuda_worker.Machine(tmp_path / "node", api=12070))
    answer = helper.ask(words.Start(id=1))
    assert answer.reason == names.Reason.GPU_DRIVER_TOO_OLD
    assert helper.ask(words.DescribeNode(id=2)).node.api == 12070


@pytest.mark.parametrize(
    ("failure", "request_", "spent"),
    [
        ("nvml-device 18", words.DescribeNode(id=1), True),
        ("nvml-device 15", words.DescribeUsage(id=1), True),
        ("nvml-device 999", words.DescribeUsage(id=1), False),
        ("state 803", words.GetState(id=1, pid=os.getpid()), True),
        ("state 999", words.GetState(id=1, pid=os.getpid()), False),
    ],
)
def test_what_a_new_process_could_do_better(machine, start, failure, request_, spent):
    helper = start()
    machine.node.fail(failure)
    assert helper.ask(request_).spent == spent


def test_a_bug_is_an_answer_too(start):
    """A pid that is no C int: the bindings raise what is no error of the driver's."""
    helper = start()
    answer = helper.ask(words.GetState(id=1, pid=1 << 40))
    assert answer.message.startswith("the GPU helper failed: OverflowError")
    assert answer.reason == names.Reason.INTERNAL_ERROR
    assert helper.ask(words.Start(id=2)) == words.Done(id=2)
    helper.socket.close()
    assert "Traceback" in helper.process.stderr.read()


def test_an_answer_that_no_packet_can_hold(machine, start):
    """More processes than anybody has; the asker is told, not left alone."""
    code = (
        "from chrek.cuda import helper, nvml, words\n"
        "import sys\n"
        "many = {n: 1 << 40 for n in range(1 << 17)}\n"
        "usage = [words.Usage(uuid='', freeBytes=0, persistence=True, processes=many)]\n"
        "nvml.Nvml.usage = lambda self: usage\n"
        "helper.main(['', sys.argv[-1]])\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "COMMAND", [sys.executable, "-P", "-c", code])
        helper = start()
    answer = helper.ask(words.DescribeUsage(id=1))
    assert answer.message == "the GPU helper cannot answer: Message too long"
    assert helper.ask(words.Start(id=2)) == words.Done(id=2)


def test_it_ends_when_the_other_side_closes(start):
    helper = start()
    helper.ask(words.Start(id=1))
    helper.socket.close()
    assert helper.process.wait(10) == 0
    assert helper.process.stderr.read() == ""


def test_it_ends_although_a_call_hangs(machine, start):
    machine.node.fail("hang state 60")
    helper = start()
    helper.ask(words.Start(id=1))
    helper.send(words.GetState(id=2, pid=os.getpid()))
    time.sleep(0.1)
    helper.socket.close()
    assert helper.process.wait(10) == 0


def test_what_is_no_request_ends_it(start):
    helper = start()
    helper.ask(words.Start(id=1))
    helper.socket.send(b"\xc1")
    assert helper.process.wait(10) == 1
    assert "DecodeError" in helper.process.stderr.read()


def test_an_interrupt_does_not_end_it(start):
    helper = start()
    helper.ask(words.Start(id=1))
    helper.process.send_signal(signal.SIGINT)
    assert helper.ask(words.Start(id=2)) == words.Done(id=2)


def test_no_program_of_the_drivers_gets_its_socket(start):
    helper = start()
    helper.ask(words.Start(id=1))
    descriptors = pathlib.Path(f"/proc/{helper.process.pid}/fd")
    sockets = [fd.name for fd in descriptors.iterdir() if "socket:" in os.readlink(fd)]
    assert len(sockets) == 1
    info = (descriptors.parent / "fdinfo" / sockets[0]).read_text()
    flags = int(info.split("flags:")[1].split()[0], 8)
    assert flags & os.O_CLOEXEC


def test_it_ends_with_whoever_started_it(machine):
    """Also when it is stopped and sees nothing of the other side."""
    code = (
        "import socket, subprocess, sys, time\n"
        "from chrek.cuda import words\n"
        "ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "child = subprocess.Popen([*sys.argv[1:], str(theirs.fileno())],"
        " pass_fds=[theirs.fileno()])\n"
        "ours.send(words.encode(words.Start(id=1)))\n"
        "ours.recv(1000)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, **machine.node.environment(machine.libraries)}
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *COMMAND], stdout=subprocess.PIPE, env=environment
    )
    with parent:
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            parent.kill()
            parent.wait()
            assert gone(pidfd)
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def gone(pidfd):
    for _ in range(500):
        try:
            signal.pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            return True
        if "State:\tZ" in status(pidfd):
            return True
        time.sleep(0.01)
    return False


def status(pidfd):
    info = pathlib.Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    pid = int(info.split("Pid:")[1].split()[0])
    try:
        return pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "State:\tZ"
