"""The Secret's keys: every way that people write them, what is refused, and a Secret's changes."""

import base64
import concurrent.futures
import os
import random
import threading

import hypothesis
import pytest
from hypothesis import strategies as st

from chrek import errors
from chrek.remote import keys

ONE, TWO, THREE, FOUR = (random.Random(seed).randbytes(32) for seed in range(4))


def text(key):
    return base64.b64encode(key) + b"\n"


def secret(directory, **entries):
    for name, data in entries.items():
        (directory / name.replace("_", "-")).write_bytes(data)
    return directory


def found(directory):
    return [wrapping.key for wrapping in keys.read(directory)]


def refusal(directory):
    with pytest.raises(errors.ConfigError) as caught:
        keys.read(directory)
    return str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        ONE,
        ONE.hex().encode(),
        ONE.hex().upper().encode() + b"\n",
        base64.b64encode(ONE),
        text(ONE),
        base64.b64encode(ONE) + b"\r\n",
        b"\n  " + text(ONE) + b"\n",
    ],
    ids=["raw", "hex", "HEX", "base64", "newline", "crlf", "spaces"],
)
def test_a_key_is_read_however_it_is_written(tmp_path, data):
    assert found(secret(tmp_path, key=data)) == [ONE]


@hypothesis.given(st.binary(min_size=32, max_size=32), st.sampled_from(["raw", "hex", "base64"]))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_a_random_key_is_read_and_no_other(tmp_path, key, form):
    secret(tmp_path, key={"raw": key, "hex": key.hex().encode(), "base64": text(key)}[form])
    passphrase = all(byte in b"\t\r\n" or 32 <= byte <= 126 for byte in key)
    if len(set(key)) < 16 or (form == "raw" and passphrase):
        refusal(tmp_path)
    else:
        assert found(tmp_path) == [key]


def test_older_keys_follow_in_the_order_of_their_entries(tmp_path):
    secret(tmp_path, key=text(ONE), previous=text(TWO) + text(THREE), previous_2=FOUR)
    assert found(tmp_path) == [ONE, TWO, THREE, FOUR]


def test_numbers_of_entries_are_numbers(tmp_path):
    secret(tmp_path, key=text(ONE), previous_10=text(TWO), previous_9=text(THREE))
    assert found(tmp_path) == [ONE, THREE, TWO]


def test_a_key_that_is_there_twice_counts_once(tmp_path):
    assert found(secret(tmp_path, key=ONE, previous=text(TWO) + text(ONE))) == [ONE, TWO]


def test_other_entries_are_not_read(tmp_path):
    (tmp_path / "more").mkdir()
    secret(tmp_path, key=ONE, previous=b"\n", README=b"for chrek", previous_old=b"x")
    assert found(tmp_path) == [ONE]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 keys instead of one"),
        (b" \n", "0 keys instead of one"),
        (text(ONE) + text(TWO), "2 keys instead of one"),
        (ONE[:31], "not a key of 32 bytes"),
        (ONE + b"\n", "not a key of 32 bytes"),
        (base64.b64encode(ONE[:24]), "32 characters that are not a key"),
        (ONE[:16].hex().encode(), "32 characters that are not a key"),
        (b"a passphrase of 31 characters!!\n", "31 characters that are not a key"),
        (base64.b64encode(ONE + ONE), "88 characters that are not a key"),
        (base64.b64encode(ONE).rstrip(b"="), "43 characters that are not a key"),
        (base64.b64encode(bytes(range(200, 232)))[:-1] + b"!", "not a key of 32 bytes"),
        (base64.urlsafe_b64encode(b"\xff" * 16 + ONE[:16]), "not a key of 32 bytes"),
        (text(base64.b64encode(ONE)), "not a key of 32 bytes"),
        (bytes(32), "not random"),
        (b"0123456789abcdef" * 4, "not random"),
        (base64.b64encode(bytes(range(15)) + bytes(17)), "not random"),
        (ONE * 1000, "more than 16384 bytes"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path, data, words):
    message = refusal(secret(tmp_path, key=data))
    assert words in message
    assert f"{tmp_path}/key" in message
    assert "head -c 32 /dev/urandom | base64" in message


def test_a_wrong_line_is_named(tmp_path):
    message = refusal(secret(tmp_path, key=ONE, previous=text(TWO) + b"\n" + b"abc\n"))
    assert f"{tmp_path}/previous, line 3: 3 characters" in message


def test_a_secret_without_key_says_what_it_has(tmp_path):
    message = refusal(secret(tmp_path, KEY=ONE, previous=TWO))
    assert "no entry `key`, only ['KEY', 'previous']" in message


def test_what_is_not_mounted_is_said(tmp_path):
    message = refusal(tmp_path / "none")
    assert f"{tmp_path}/none: the Secret with the key cannot be read: No such file" in message
    assert "storage.encryption" in message


@pytest.mark.parametrize("kind", ["directory", "loop", "dangling"])
def test_an_entry_that_cannot_be_read_is_said(tmp_path, kind):
    entry = tmp_path / "key"
    if kind == "directory":
        entry.mkdir()
    else:
        entry.symlink_to("key" if kind == "loop" else "nowhere")
    before = len(os.listdir("/proc/self/fd"))
    assert "cannot be read" in refusal(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def mount(directory, number):
    """What the kubelet does with a Secret that has changed."""
    new = directory / f"..{number}"
    new.mkdir()
    secret(new, key=text(numbered(number)), previous=text(numbered(number - 1)))
    (directory / "..new").symlink_to(new.name)
    (directory / "..new").rename(directory / "..data")
    for name in ("key", "previous"):
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    for old in directory.glob(f"..{number - 1}"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()


def numbered(number):
    return random.Random(number + 100).randbytes(32)


def test_a_changed_secret_is_read_again(tmp_path):
    mount(tmp_path, 1)
    assert found(tmp_path) == [numbered(1), numbered(0)]
    mount(tmp_path, 2)
    assert found(tmp_path) == [numbered(2), numbered(1)]


def test_a_secret_that_changes_while_it_is_read_is_read_again(tmp_path):
    mount(tmp_path, 1)
    slow = tmp_path / "..1" / "key"
    slow.unlink()
    os.mkfifo(slow)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reading = pool.submit(found, tmp_path)
        with slow.open("wb") as file:  # Opens when the other end does.
            (tmp_path / "..1").rename(tmp_path / "..old")
            mount(tmp_path, 2)
            file.write(text(numbered(1)))
        assert reading.result(10) == [numbered(2), numbered(1)]


def test_a_secret_is_never_read_in_part(tmp_path):
    mount(tmp_path, 1)
    pairs = {(numbered(number), numbered(number - 1)) for number in range(1, 100)}
    was_read, changed = threading.Event(), threading.Event()

    def change():
        for number in range(2, 100):
            was_read.clear()
            was_read.wait(10)
            mount(tmp_path, number)
        changed.set()

    thread = threading.Thread(target=change)
    thread.start()
    seen = set()
    while not changed.is_set():
        try:
            seen.add(tuple(found(tmp_path)))
        except errors.ConfigError as err:
            seen.add(str(err))
        was_read.set()
    thread.join()
    assert seen <= pairs
    assert len(seen) > 50
