"""What tokens are asked for, and of whom."""

import pytest

from chrek import errors
from chrek.registry import challenge, keyring, session, tokens, words
from fakes import registry as fake

ME = keyring.Credential("secret", "me", "hunter2")
REFRESH = keyring.Credential("secret", identity_token="hunter2-refresh")


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy of this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with fake.Registry() as made:
        made.users, made.refresh_tokens = {"me": "hunter2"}, {"hunter2-refresh"}
        yield made


@pytest.fixture
async def begun():
    made = session.Session(words.Words("x.io"), deadline=10.0, ca_bundle=None)
    made.start()
    yield made
    await made.close()


def bearer(server, **parameters):
    return [challenge.Challenge("bearer", {"realm": f"{server.url}/token", **parameters})]


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (["pull"], "repository:a/b:pull"),
        (["push", "pull"], "repository:a/b:pull,push"),
        (["delete", "push", "pull", "pull"], "repository:a/b:pull,push,delete"),
        (["other", "delete", "*"], "repository:a/b:delete,*,other"),
    ],
)
def test_scopes(actions, expected):
    assert tokens.scope("repository:a/b", actions) == expected


@pytest.mark.parametrize(
    ("asked", "wanted", "expected"),
    [
        ("", ["repository:a:pull"], ["repository:a:pull"]),
        ("repository:a:pull", ["repository:a:pull"], ["repository:a:pull"]),
        ("repository:a:pull", ["repository:a:pull,push"], ["repository:a:pull,push"]),
        ("repository:a:delete", ["repository:a:pull"], ["repository:a:pull,delete"]),
        (
            "repository:a:push repository:b:pull",
            ["repository:a:pull,push", "repository:b:pull"],
            ["repository:a:pull,push", "repository:b:pull"],
        ),
        ("repository:proxy/a:pull", ["repository:a:pull,push"], ["repository:proxy/a:pull"]),
        ("registry:catalog:*", ["repository:a:pull"], ["registry:catalog:*"]),
        ("repository:host:5000/a:pull", ["repository:a:pull"], ["repository:host:5000/a:pull"]),
    ],
)
def test_what_the_registry_asks_for_and_what_follows(asked, wanted, expected):
    assert tokens.union(asked, wanted) == expected


async def test_each_scope_is_a_parameter_of_its_own(server, begun):
    prover = tokens.Prover(begun, ME, plain_http=True)
    wanted = ["repository:a:pull,push", "repository:b:pull"]
    assert await prover.prove(bearer(server, service="s"), wanted) == f"Bearer {server.token}"
    (asked,) = server.requests
    assert asked.scopes == wanted
    assert asked.query["service"] == "s"


async def test_or_they_stand_in_one_field_of_a_form(server, begun):
    prover = tokens.Prover(begun, REFRESH, plain_http=True)
    wanted = ["repository:a:pull,push", "repository:b:pull"]
    assert await prover.prove(bearer(server), wanted) == f"Bearer {server.token}"
    assert b"scope=repository%3Aa%3Apull%2Cpush+repository%3Ab%3Apull" in server.requests[0].body


async def test_what_the_realm_says_already_is_kept(server, begun):
    prover = tokens.Prover(begun, ME, plain_http=True)
    asked = [challenge.Challenge("bearer", {"realm": f"{server.url}/token?account=x"})]
    await prover.prove(asked, ["repository:a:pull"])
    assert server.requests[0].query == {"account": "x", "scope": "repository:a:pull"}


async def test_a_password_is_given_only_where_one_is_asked_for(begun):
    basic = [challenge.Challenge("basic", {})]
    assert await tokens.Prover(begun, ME, plain_http=True).prove(basic, []) == ME.basic()
    assert await tokens.Prover(begun, None, plain_http=True).prove(basic, []) is None
    assert await tokens.Prover(begun, ME, plain_http=True).prove([], []) is None


async def test_a_registry_with_tls_may_not_name_a_token_server_without(server, begun):
    prover = tokens.Prover(begun, ME, plain_http=False)
    with pytest.raises(errors.RegistryError, match="is not at https:"):
        await prover.prove(bearer(server), ["repository:acme/worker:pull"])
    assert server.requests == []
