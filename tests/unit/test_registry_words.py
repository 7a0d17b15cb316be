"""What failures of a registry are called."""

import json

import pytest

from chrek.registry import words


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
    err = words.refused("x.io", "p", status, raw)
    assert err.message.endswith(text)
    assert err.message.startswith("registry x.io: p: ")
    assert (err.status, err.denied) == (status, denied)


def test_pages_are_not_shown():
    """Else whoever names an image reads what only the operator's network shows."""
    err = words.refused("x.io", "p", 403, b"<html>internal secret</html>")
    assert "secret" not in str(err).replace("pull secret", "")


def test_long_words_are_cut_and_stand_on_one_line():
    err = words.refused("x.io", "p", 500, body({"code": "A", "message": "x\n\x1b[31m" * 1000}))
    assert len(err.message) < 300
    assert err.message.isprintable()


def test_what_to_do():
    assert "pull secret for x.io" in words.refused("x.io", "p", 401, b"").hint
    assert "name and tag" in words.refused("x.io", "p", 404, b"").hint
    assert "higher limit" in words.refused("x.io", "p", 429, b"").hint
    assert "later" in words.refused("x.io", "p", 503, b"").hint
    unknown = words.unanswered("x.io", "p", OSError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"))
    assert "authority" in unknown.hint
    plain = words.unanswered("x.io", "p", OSError("[SSL: WRONG_VERSION_NUMBER]"))
    assert "plainHttpRegistries" in plain.hint
    assert "it took too long" in words.unanswered("x.io", "p", TimeoutError()).message
    assert words.unanswered("x.io", "p", OSError("gone")).retryable
    assert not words.unusable("x.io", "p", "it lies").retryable
