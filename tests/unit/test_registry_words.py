"""What failures of a registry are called."""

import json

import pytest

from chrek.registry import words

SPOKEN = words.Words("x.io")


def body(*items):
    return json.dumps({"errors": list(items)}).encode()


@pytest.mark.parametrize(
    ("status", "raw", "text", "denied"),
    [
        (
            404,
            body({"code": "NAME_UNKNOWN", "message": "no such"}),
            "404 NAME_UNKNOWN: no such",
            False,
        ),
        (401, b"", "p: 401", True),
        (403, body({"code": "DENIED", "message": "no"}), "403 DENIED: no", True),
        (400, body({"code": "DENIED"}), "400 DENIED:", True),
        (401, b'{"details": "wrong password"}', "401 wrong password", True),
        (500, body({"code": "A"}, {"code": "B", "message": "b"}), "500 A: ; B: b", False),
        (500, body({"code": 1, "message": ["x"]}), "500 1: ['x']", False),
        (500, b'{"errors": {}}', "p: 500", False),
        (500, b"[]", "p: 500", False),
        (500, b"\xff", "p: 500", False),
    ],
)
def test_a_refusal_in_the_registrys_words(status, raw, text, denied):
    err = SPOKEN.refused("p", status, raw)
    assert err.message.endswith(text)
    assert err.message.startswith("registry x.io: p: ")
    assert (err.status, err.denied) == (status, denied)


def test_pages_are_not_shown():
    """Else whoever names an image reads what only the operator's network shows."""
    err = SPOKEN.refused("p", 403, b"<html>internal secret</html>")
    assert "secret" not in str(err).replace("pull secret", "")


def test_long_words_are_cut_and_stand_on_one_line():
    err = SPOKEN.refused("p", 500, body({"code": "A", "message": "x\n\x1b[31m" * 1000}))
    assert len(err.message) < 300
    assert err.message.isprintable()


def test_what_to_do():
    assert "pull secret for x.io" in SPOKEN.refused("p", 401, b"").hint
    assert "name and tag" in SPOKEN.refused("p", 404, b"").hint
    assert "higher limit" in SPOKEN.refused("p", 429, b"").hint
    assert "later" in SPOKEN.refused("p", 503, b"").hint
    unknown = SPOKEN.unanswered("p", OSError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"))
    assert "authority" in unknown.hint
    plain = SPOKEN.unanswered("p", OSError("[SSL: WRONG_VERSION_NUMBER]"))
    assert "plainHttpRegistries" in plain.hint
    assert "it took too long" in SPOKEN.unanswered("p", TimeoutError()).message
    assert SPOKEN.unanswered("p", OSError("gone")).retryable
    assert not SPOKEN.unusable("p", "it lies").retryable


@pytest.mark.parametrize(
    ("status", "raw", "retryable", "absent"),
    [
        (404, body({"code": "MANIFEST_UNKNOWN"}), False, True),
        (404, b"<html>default backend</html>", True, False),
        (404, b"", True, False),
        (403, body({"code": "DENIED"}), False, False),
        (429, body({"code": "TOOMANYREQUESTS"}), True, False),
        (503, body({"code": "UNAVAILABLE"}), True, False),
    ],
)
def test_what_is_final_and_what_is_not_there(status, raw, retryable, absent):
    """A proxy whose registry is away may say 404 as well."""
    err = SPOKEN.refused("p", status, raw)
    assert (err.retryable, words.absent(err)) == (retryable, absent)


def test_the_most_telling_hint_is_given():
    hints = {"QUOTA": "q", "DENIED": "d {registry}", "403": "s", "5xx": "later"}
    spoken = words.Words("x.io", hints)
    denied = {"code": "DENIED", "message": "Quota exceeded when processing the request"}
    assert spoken.refused("p", 403, body(denied)).hint == "q"
    assert spoken.refused("p", 403, body({"code": "DENIED"})).hint == "d x.io"
    assert spoken.refused("p", 403, body({"code": "OTHER"})).hint == "s"
    assert spoken.refused("p", 599, b"").hint == "later"
    assert spoken.refused("p", 418, b"").hint is None
    assert spoken.unanswered("p", OSError("x")).hint is None


def test_queries_are_left_out():
    text = "cannot reach 'https://s3/x?X-Amz-Signature=abc&y=1' or http://y/?z now"
    told = SPOKEN.unanswered("p", OSError(text)).message
    assert told.endswith("cannot reach 'https://s3/x?…' or http://y/?… now")
