"""Credentials of pull secrets: which is for which image, and none is ever shown."""

import base64
import json

import pytest

from chrek import errors
from chrek.registry import keyring, reference


def auth(text):
    return base64.b64encode(text.encode()).decode()


def entries(auths, **more):
    return keyring.read(json.dumps({"auths": auths, **more}).encode(), source="secret ns/pull")


def users(auths, image):
    found = keyring.matching(entries(auths), reference.parse(image))
    return [credential.username for credential in found]


@pytest.mark.parametrize(
    "key",
    [
        "https://index.docker.io/v1/",
        "index.docker.io/v1/",
        "index.docker.io",
        "docker.io",
        "https://docker.io",
        "registry-1.docker.io",
        "https://registry-1.docker.io/v2/",
    ],
)
def test_spellings_of_docker_hub(key):
    assert users({key: {"auth": auth("me:x")}}, "busybox") == ["me"]
    assert users({key: {"auth": auth("me:x")}}, "ghcr.io/busybox") == []


@pytest.mark.parametrize(
    ("key", "image", "matches"),
    [
        ("ghcr.io", "ghcr.io/acme/x", True),
        ("https://ghcr.io", "ghcr.io/acme/x", True),
        ("https://ghcr.io/v1/", "ghcr.io/acme/x", True),
        ("https://ghcr.io/v2/acme", "ghcr.io/acme/x", True),
        ("GHCR.io", "ghcr.io/acme/x", True),
        ("ghcr.io/acme", "ghcr.io/acme/x", True),
        ("ghcr.io/acme/", "ghcr.io/acme/x", True),
        ("ghcr.io/acme/x", "ghcr.io/acme/x:2", True),
        ("ghcr.io/ac", "ghcr.io/acme/x", False),
        ("ghcr.io/other", "ghcr.io/acme/x", False),
        ("ghcr.io", "notghcr.io/acme/x", False),
        ("ghcr.io", "ghcr.io.example.com/acme/x", False),
        ("ghcr.io", "ghcr.io:443/acme/x", False),
        ("r.example.com:5000", "r.example.com:5000/x", True),
        ("r.example.com:5000", "r.example.com/x", False),
        ("*.example.com", "r.example.com/x", True),
        ("*.example.com", "example.com/x", False),
        ("*.example.com", "a.b.example.com/x", False),
        ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com/x", True),
    ],
)
def test_which_key_is_for_which_image(key, image, matches):
    assert bool(users({key: {"auth": auth("me:x")}}, image)) is matches


def test_the_longest_path_comes_first():
    auths = {
        "ghcr.io": {"auth": auth("all:x")},
        "ghcr.io/acme/x": {"auth": auth("image:x")},
        "ghcr.io/acme": {"auth": auth("team:x")},
    }
    assert users(auths, "ghcr.io/acme/x") == ["image", "team", "all"]
    assert users(auths, "ghcr.io/acme/y") == ["team", "all"]


def test_what_a_credential_says():
    fields = {"username": "me", "password": "p:w", "auth": auth("you:q:w")}
    (entry,) = entries({"ghcr.io": fields})
    assert entry.credential.basic() == "Basic " + auth("you:q:w"), "`auth` counts"
    (entry,) = entries({"ghcr.io": {"username": "me", "password": "p:w"}})
    assert entry.credential.basic() == "Basic " + auth("me:p:w")
    (entry,) = entries({"ghcr.io": {"auth": auth("00000000:"), "identitytoken": "refresh"}})
    assert entry.credential.identity_token == "refresh"


def test_the_older_form_has_no_auths():
    raw = json.dumps({"ghcr.io": {"auth": auth("me:x"), "email": "a@b"}}).encode()
    (entry,) = keyring.read(raw, source="s")
    assert entry.host == "ghcr.io"


def test_entries_of_credential_helpers_are_left_out():
    assert entries({"ghcr.io": {}}, credsStore="desktop") == []
    assert entries({}) == []


@pytest.mark.parametrize("raw", [b"", b"[]", b"1", b'"auths"', b"\xff", b'{"auths": []}', b"null"])
def test_what_is_no_config_file(raw):
    with pytest.raises(errors.ConfigError, match="secret ns/pull: it is not a Docker config file"):
        keyring.read(raw, source="secret ns/pull")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auth": "%%%hunter2"}, "`auth` is not base64 text"),
        ({"auth": base64.b64encode(b"\xff\xfe").decode()}, "`auth` is not base64 text"),
        ({"auth": auth("hunter2")}, "not the base64 of user:password"),
        ({"username": "me"}, "neither `auth` nor username and password"),
        ({"email": "me"}, "neither `auth` nor username and password"),
    ],
)
def test_entries_that_cannot_be_used_are_named_but_not_shown(fields, message):
    with pytest.raises(errors.ConfigError) as raised:
        entries({"ghcr.io": fields})
    assert message in raised.value.message
    assert "secret ns/pull: the entry of 'ghcr.io'" in raised.value.message
    assert "hunter2" not in str(raised.value)
    assert auth("hunter2") not in str(raised.value)


def test_no_repr_shows_a_secret():
    (entry,) = entries({"x.io": {"auth": auth("me:hunter2"), "identitytoken": "hunter3"}})
    assert "hunter" not in repr(entry)
    assert "secret ns/pull" in repr(entry)


def write(folder, auths):
    """As the kubelet does it: another folder takes the place of the first."""
    made = folder / f"..{len(list(folder.iterdir()))}"
    made.mkdir()
    (made / ".dockerconfigjson").write_text(json.dumps({"auths": auths}))
    (folder / "..new").symlink_to(made.name)
    (folder / "..new").rename(folder / "..data")
    if not (folder / ".dockerconfigjson").exists():
        (folder / ".dockerconfigjson").symlink_to("..data/.dockerconfigjson")


def test_a_mounted_secret_is_read_again_when_it_changes(tmp_path):
    image = reference.parse("ghcr.io/acme/x")
    mounted = keyring.Mounted(tmp_path, source="the Secret")
    for password in ("one", "two"):
        write(tmp_path, {"ghcr.io/acme": {"auth": auth(f"me:{password}")}, "ghcr.io": {}})
        for _ in range(2):
            assert mounted.credential(image).password == password
    assert mounted.mounted
    assert mounted.credential(reference.parse("other.io/x")) is None


def test_nothing_is_mounted():
    mounted = keyring.Mounted(None, source="the Secret")
    assert not mounted.mounted
    assert mounted.credential(reference.parse("ghcr.io/acme/x")) is None


def test_a_secret_of_another_type(tmp_path):
    mounted = keyring.Mounted(tmp_path, source="the Secret of X")
    image = reference.parse("ghcr.io/acme/x")
    with pytest.raises(errors.ConfigError) as raised:
        mounted.credential(image)
    path = tmp_path / ".dockerconfigjson"
    assert raised.value.message == f"the Secret of X: {path}: No such file or directory"
    assert "kubernetes.io/dockerconfigjson" in raised.value.hint
    path.write_text("hunter2")
    for _ in range(2):
        with pytest.raises(errors.ConfigError, match="the Secret of X: it is not") as raised:
            mounted.credential(image)
        assert "hunter2" not in str(raised.value)
