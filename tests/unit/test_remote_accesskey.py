"""The access key in the files of a mounted Secret."""

from __future__ import annotations

import datetime
import os
import threading

import pytest

from chrek import errors
from chrek.remote import accesskey


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return accesskey.Folder(folder)


def pair(name):
    return {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": f"secret-of-{name}"}


def test_the_key_is_read_as_the_client_takes_it(tmp_path):
    one = write(tmp_path, **pair("me\n"))
    given = one()
    assert given["access_key_id"] == "me"
    assert given["secret_access_key"] == "secret-of-me"
    assert given["token"] is None
    # It is over at once, so that the client asks again for the next request.
    assert given["expires_at"] <= datetime.datetime.now(datetime.UTC)


def test_a_token_is_given_and_an_empty_one_is_none(tmp_path):
    assert write(tmp_path, **pair("me"), AWS_SESSION_TOKEN="t")()["token"] == "t"
    assert write(tmp_path, AWS_SESSION_TOKEN="\n")()["token"] is None


def test_another_key_is_seen_at_once(tmp_path):
    one = write(tmp_path, **pair("me"))
    before = one.key()
    write(tmp_path, **pair("you"), AWS_SESSION_TOKEN="t")
    assert one.key() != before
    assert (one.key().id, one.key().token) == ("you", "t")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_half_a_key_is_none(tmp_path, name, how):
    one = write(tmp_path, **pair("me"))
    if how == "empty":
        (tmp_path / name).write_text(" \n")
    else:
        (tmp_path / name).unlink()
    with pytest.raises(errors.ConfigError) as caught:
        one.key()
    assert f"there is no {name}" in caught.value.message
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in caught.value.hint
    assert "secret-of" not in str(caught.value)


@pytest.mark.parametrize("text", [b"two\nlines", b"\xff\xfe", b"a\x00b"])
def test_what_no_key_can_be_is_refused_without_showing_it(tmp_path, text):
    one = write(tmp_path, **pair("me"))
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_bytes(text)
    with pytest.raises(errors.ConfigError) as caught:
        one.key()
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.message
    assert "lines" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    one = write(tmp_path, **pair("me"))
    (tmp_path / "AWS_SESSION_TOKEN").mkdir()
    with pytest.raises(errors.ConfigError, match="AWS_SESSION_TOKEN: Is a directory"):
        one.key()


def test_region_and_endpoint(tmp_path):
    one = write(tmp_path, **pair("me"))
    assert (one.region, one.endpoint) == ("", "")
    write(tmp_path, AWS_DEFAULT_REGION="eu-west-1", AWS_ENDPOINT_URL="https://x\n")
    assert (one.region, one.endpoint) == ("eu-west-1", "https://x")
    write(tmp_path, AWS_REGION="eu-central-1")
    assert one.region == "eu-central-1"


def test_a_key_does_not_show_its_secrets(tmp_path):
    key = write(tmp_path, **pair("me"), AWS_SESSION_TOKEN="t0k3n").key()
    assert "secret-of" not in repr(key)
    assert "t0k3n" not in repr(key)
    assert key.secrets == ["me", "secret-of-me", "t0k3n"]


def test_no_mixture_of_two_keys_is_read_while_the_kubelet_replaces_them(tmp_path):
    """The kubelet makes a new folder and renames a link; the files are links through it."""
    for name in ("a", "b"):
        write(tmp_path / name, **pair(name))
    mount, done = tmp_path / "mount", threading.Event()
    mount.mkdir()
    (mount / "..data").symlink_to(tmp_path / "a")
    for name in pair(""):
        (mount / name).symlink_to(f"..data/{name}")

    def replace():
        while not done.is_set():
            for name in ("a", "b"):
                (mount / "..new").symlink_to(tmp_path / name)
                os.rename(mount / "..new", mount / "..data")

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        one = accesskey.Folder(mount)
        found = [one.key() for _ in range(300)]
    finally:
        done.set()
        thread.join()
    assert {key.secret for key in found if key.id == "a"} <= {"secret-of-a"}
    assert {key.secret for key in found if key.id == "b"} <= {"secret-of-b"}
