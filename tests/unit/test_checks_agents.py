import json
import threading
import time

import pytest

from chrek import errors
from chrek.checks import agents, report
from fakes import agents as fake_agents

OK, WARNING = report.Status.OK, report.Status.WARNING


def pod(name="a", *, port=None, address="127.0.0.1"):
    ports = [{"name": "metrics", "containerPort": 1}]
    ports += [{"name": "http", "containerPort": port}] if port else []
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"ports": ports}]},
        "status": {"podIP": address, "phase": "Running"},
    }


def answer(**what):
    return agents.read([pod()], lambda _: json.dumps(fake_agents.preflight(**what)).encode())["a"]


def test_an_agent_is_asked_at_its_pods_address():
    with fake_agents.Agent(fake_agents.preflight("n7")) as agent:
        # The port that the pod names, else that of the release.
        for found in (
            agents.direct(pod(port=agent.port), 1),
            agents.direct(pod(), agent.port),
        ):
            assert json.loads(found)["node"] == "n7"


@pytest.mark.parametrize("status", [404, 503])
def test_an_agent_that_refuses(status):
    with fake_agents.Agent(status=status) as agent:
        with pytest.raises(errors.ApiError, match=f":{agent.port}/preflight: HTTP {status}") as err:
            agents.direct(pod(), agent.port)
        assert err.value.status == status


def test_an_agent_that_is_not_there():
    with fake_agents.Agent() as agent:
        port = agent.port
    with pytest.raises(errors.ApiError, match=f"http://127.0.0.1:{port}/preflight: .*refused"):
        agents.direct(pod(), port)
    with pytest.raises(errors.ApiError, match=r"http://\[::1\]:"):
        agents.direct(pod(address="::1"), port)


def test_an_agent_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(agents, "TIMEOUT_SECONDS", 0.1)
    with fake_agents.Agent(delay=1) as agent, pytest.raises(errors.ApiError, match="timed out"):
        agents.direct(pod(), agent.port)


@pytest.mark.parametrize(
    ("status", "runs"),
    [
        ({"podIP": "10.0.0.1", "phase": "Running"}, True),
        ({"phase": "Running"}, False),
        ({"podIP": "10.0.0.1", "phase": "Failed"}, False),
        ({}, False),
    ],
)
def test_only_agents_that_run_can_be_asked(status, runs):
    assert agents.runs({"status": status}) is runs


def test_all_are_asked_at_once():
    together = threading.Barrier(8)

    def reader(one):
        together.wait(timeout=10)
        return json.dumps(fake_agents.preflight(one["metadata"]["name"])).encode()

    found = agents.read([pod(f"n{number}") for number in range(8)], reader)
    assert {name: one.preflight.node for name, one in found.items()} == {
        f"n{number}": f"n{number}" for number in range(8)
    }


def test_as_many_at_once_as_the_reader_can_take():
    running, most = set(), []

    def reader(one):
        running.add(one["metadata"]["name"])
        most.append(len(running))
        time.sleep(0.01)
        running.discard(one["metadata"]["name"])
        return b"{}"

    agents.read([pod(f"n{number}") for number in range(8)], reader, parallel=2)
    assert max(most) <= 2


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("reader", "error", "silent"),
    [
        (lambda _: fail(errors.ApiError("no such path", status=404)), "no such path", True),
        (lambda _: fail(errors.ApiError("refused", status=403)), "refused", False),
        (lambda _: fail(errors.ChrekError("no")), "no", False),
        (lambda _: b"<html>", "/preflight cannot be understood: ", False),
        (lambda _: b'{"node": "\xff"}', "/preflight cannot be understood: ", False),
        (lambda _: b'{"node": 1}', "/preflight cannot be understood: ", False),
        (
            lambda _: b'{"node": "a", "ready": true, "checks": [{"name": "a", "status": "red"}]}',
            "/preflight cannot be understood: Invalid enum value 'red'",
            False,
        ),
    ],
)
def test_what_cannot_be_read_is_an_answer_as_well(reader, error, silent):
    found = agents.read([pod()], reader)["a"]
    assert found.preflight is None
    assert found.error.startswith(error)
    assert found.silent is silent


def test_a_newer_agent_may_say_more():
    body = {**fake_agents.preflight("n1"), "more": {"a": 1}}
    found = agents.read([pod()], lambda _: json.dumps(body).encode())["a"]
    assert found.preflight.node == "n1"


def test_nobody_is_asked():
    assert agents.read([], lambda _: b"") == {}


def test_why_an_agent_is_not_ready():
    failed = [
        fake_agents.check("store", "fail", "Read-only file system", "mount it read-write"),
        fake_agents.check("kernel", "ok"),
        fake_agents.check("clock", "fail", "70 s ahead", "set the clock"),
    ]
    told = ("store: Read-only file system; clock: 70 s ahead", "mount it read-write; set the clock")
    assert answer(checks=failed, problems=["x"]).why() == told
    assert answer(problems=["a", "b"]).why() == ("a; b", "")
    assert agents.Answer(error="timed out").why() == ("", "")


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["ok", "ok"], "2 of 2 checks passed"),
        (["ok", "warn", "fail"], "1 of 3 checks passed"),
        ([], ""),
    ],
)
def test_summary(states, told):
    checks = [fake_agents.check(f"c{number}", state) for number, state in enumerate(states)]
    assert answer(checks=checks).summary() == told


def test_a_table_leaves_failures_to_the_line_of_the_node():
    checks = [
        fake_agents.check("kernel", detail="6.8"),
        fake_agents.check("store", "fail", "gone", "mount it"),
        fake_agents.check("clock", "warn", "7 s ahead", "run an NTP client"),
    ]
    assert agents.table("n1", answer(checks=checks)) == [
        report.ok("n1/kernel", "6.8"),
        report.warning("n1/clock", "7 s ahead", "run an NTP client"),
    ]


def test_merged_lines_stay_short_whatever_many_nodes_say():
    answers = {
        f"n{number}": answer(checks=[fake_agents.check("space", "warn", f"{number} GiB", "add")])
        for number in range(10)
    }
    answers["x"] = agents.Answer(error="timed out")
    answers["y"] = agents.Answer(error="timed out")
    answers["z"] = agents.Answer(silent=True)
    silent, lost, space = agents.merged(answers)
    assert (silent.name, silent.status) == ("preflight", OK)
    assert silent.detail.startswith("z: an older agent")
    assert (lost.name, lost.status) == ("preflight", WARNING)
    assert lost.detail == "cannot be read: x, y: timed out"
    assert space == report.warning(
        "space", "n0: 0 GiB; n1: 1 GiB; n2: 2 GiB; and 7 more nodes", "add"
    )
