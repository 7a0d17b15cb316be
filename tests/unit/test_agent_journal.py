"""What was in flight survives the agent; what is damaged is forgotten, not fatal."""

import json
import os
import time

import pytest

from chrek import names
from chrek.agent import journal

RESTORING = journal.Record(pod="ns/p", state="restoring", uuid="u1")
FAILED = journal.Record(
    pod="ns/p", state="failed", uuid="u1", reason="CriuFailed", message="criu: é\n"
)


def test_a_record_survives_the_agent(tmp_path):
    first = journal.Journal(tmp_path / "signals")
    first.put("uid-1", FAILED)
    found = journal.Journal(tmp_path / "signals").get("uid-1")
    assert (found.state, found.uuid, found.reason) == ("failed", "u1", "CriuFailed")
    assert found.message == FAILED.message
    assert abs(found.at - time.time()) < 10
    assert journal.Journal(tmp_path / "signals").get("uid-2") is None


def test_a_restore_that_was_cut_off_has_failed(tmp_path):
    first = journal.Journal(tmp_path)
    first.put("uid-1", RESTORING)
    assert first.get("uid-1").state == "restoring"
    found = journal.Journal(tmp_path).get("uid-1")
    assert (found.state, found.reason) == ("failed", names.Reason.AGENT_GONE)
    assert "the agent ended" in found.message


def test_a_worker_on_probation_is_none_that_was_cut_off(tmp_path):
    record = journal.Record(pod="ns/p", state="restored", uuid="u1", variant="v", container="c")
    journal.Journal(tmp_path).put("uid-1", record)
    ((uid, found),) = journal.Journal(tmp_path).items()
    assert (uid, found.state) == ("uid-1", "restored")
    assert (found.uuid, found.variant, found.container) == ("u1", "v", "c")


def test_a_second_record_replaces_the_first(tmp_path):
    made = journal.Journal(tmp_path)
    made.put("uid-1", RESTORING)
    made.put("uid-1", FAILED)
    assert journal.Journal(tmp_path).get("uid-1").reason == "CriuFailed"
    assert os.listdir(tmp_path / "journal") == ["uid-1.json"]


def test_what_is_dropped_stays_away(tmp_path):
    made = journal.Journal(tmp_path)
    for uid in ("a", "b", "c"):
        made.put(uid, FAILED)
    made.drop("a")
    made.drop("a")
    made.drop("never")
    made.keep_only({"c", "new"})
    assert os.listdir(tmp_path / "journal") == ["c.json"]
    again = journal.Journal(tmp_path)
    assert [uid for uid in "abc" if again.get(uid)] == ["c"]


DAMAGED = [
    *(b"", b"{", b"\xff\xff", b"[]", b"null", b'{"pod": 1}', b'{"pod": "\xff"}'),
    json.dumps({"pod": "ns/p", "state": "unheard of", "uuid": "u"}).encode(),
    json.dumps({"pod": "ns/p", "state": "failed"}).encode(),
]


@pytest.mark.parametrize("data", DAMAGED)
def test_damage_is_forgotten(tmp_path, data):
    journal.Journal(tmp_path).put("good", FAILED)
    (tmp_path / "journal/bad.json").write_bytes(data)
    made = journal.Journal(tmp_path)
    assert made.get("bad") is None
    assert made.get("good")
    assert not (tmp_path / "journal/bad.json").exists()


def test_what_is_no_record_is_left_alone(tmp_path):
    """Neither a directory nor a write that was cut off keeps the agent from starting."""
    (tmp_path / "journal/odd.json").mkdir(parents=True)
    (tmp_path / "journal/cut.new").write_bytes(b'{"pod"')
    (tmp_path / "journal/gone.json").symlink_to("/nowhere")
    made = journal.Journal(tmp_path)
    assert made.get("odd") is made.get("cut") is made.get("gone") is None


def test_records_of_a_newer_agent_are_read(tmp_path):
    """After a downgrade, what is not known is passed over."""
    record = {"pod": "ns/p", "state": "failed", "uuid": "u", "probation": 3}
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/a.json").write_text(json.dumps(record))
    assert journal.Journal(tmp_path).get("a").uuid == "u"


def test_nobody_else_can_read_it(tmp_path):
    journal.Journal(tmp_path / "signals")
    assert (tmp_path / "signals/journal").stat().st_mode & 0o777 == 0o700
