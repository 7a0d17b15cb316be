"""HTTP with a registry: bodies, limits, TLS."""

import time

import pytest
import yarl

from chrek import errors
from chrek.registry import session, words
from fakes import registry as fake


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy of this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with fake.Registry() as made:
        yield made


@pytest.fixture
async def begun():
    made = session.Session(words.Words("x.io"), deadline=10.0, ca_bundle=None)
    made.start()
    yield made
    await made.close()


class Writer:
    """Takes what a body writes."""

    def __init__(self):
        self.parts = []

    async def write(self, part):
        self.parts.append(part)


async def test_a_body_is_written_in_slices_of_the_memory_that_it_was_given():
    data = bytearray(2 * session.SLICE_BYTES + 1)
    writer = Writer()
    body = session.Body(memoryview(data))
    await body.write(writer)
    assert body.size == len(data)
    assert [len(part) for part in writer.parts] == [session.SLICE_BYTES] * 2 + [1]
    assert all(part.obj is data for part in writer.parts), "nothing is copied"


async def test_one_that_was_begun_is_not_sent_by_others_again():
    body = session.Body(b"x")
    assert not body.consumed
    await body.write(Writer())
    assert body.consumed


async def test_views_of_other_items_than_bytes():
    writer = Writer()
    body = session.Body(memoryview(b"12345678").cast("I"))
    await body.write(writer)
    assert (body.size, b"".join(writer.parts)) == (8, b"12345678")


async def test_a_session_must_be_started():
    made = session.Session(words.Words("x.io"), deadline=None, ca_bundle=None)
    with pytest.raises(RuntimeError):
        await made.send("GET", yarl.URL("http://127.0.0.1:1"), {})
    await made.close()


async def test_starting_twice_keeps_the_connections(server, begun):
    url = yarl.URL(f"{server.url}/v2/x/manifests/y")
    for _ in range(2):
        begun.start()
        (await begun.send("GET", url, {})).release()
    await begun.close()
    begun.start()
    (await begun.send("GET", url, {})).release()


async def test_no_cookies_are_kept(server, begun):
    """Registries with a user interface take a request with one for that of a browser."""
    server.script["/v2/"] = [(200, {"Set-Cookie": "sid=x; Path=/"}, b"")]
    for _ in range(2):
        url = yarl.URL(f"http://localhost:{server.host.partition(':')[2]}/v2/x/manifests/y")
        (await begun.send("GET", url, {})).release()
    assert "Cookie" not in server.requests[-1].headers


async def test_large_bodies_have_more_time(server, begun, monkeypatch):
    monkeypatch.setattr(session, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(session, "SLOWEST_BYTES_PER_SECOND", 1000)
    server.delay_seconds = 0.5
    server.script["/v2/"] = [(201, {}, b"")] * 4
    url = yarl.URL(f"{server.url}/v2/x/manifests/y")
    for data, more_bytes in ((None, 0), (b"x", 0), (None, 5000)):
        with pytest.raises(TimeoutError):
            await begun.send("PUT", url, {}, data=data, more_bytes=more_bytes)
    (await begun.send("PUT", url, {}, data=b"x" * 5000)).release()


async def test_the_deadline_is_the_last_word(server):
    made = session.Session(words.Words("x.io"), deadline=0.2, ca_bundle=None)
    made.start()
    server.delay_seconds = 2.0
    url = yarl.URL(f"{server.url}/v2/x/manifests/y")
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await made.send("PUT", url, {}, data=b"x")
    assert time.monotonic() - started < 1.5
    await made.close()


async def test_bodies_are_bounded(server, begun):
    server.script["/v2/"] = [(200, {}, b"x" * 100)] * 2
    url = yarl.URL(f"{server.url}/v2/")
    assert await begun.read(await begun.send("GET", url, {}), "it", 100) == b"x" * 100
    with pytest.raises(
        errors.RegistryError, match=r"registry x\.io: it: it has more than 99 bytes"
    ):
        await begun.read(await begun.send("GET", url, {}), "it", 99)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0.0), ("7", 7.0), (" 7 ", 7.0), ("x", 0.0), ("-7", 0.0), ("²", 0.0)],
)
async def test_how_long_it_wants_to_be_left_alone(server, begun, text, seconds):
    headers = {"Retry-After": text.encode().decode("latin-1")}
    server.script["/v2/"] = [(429, headers, b"")]
    answer = await begun.send("GET", yarl.URL(f"{server.url}/v2/"), {})
    assert (await begun.refused(answer, "it")).wait == seconds


async def test_an_authority_that_is_not_known(tmp_path):
    context, authority = fake.tls(tmp_path)
    spoken = words.Words("x.io")
    with fake.Registry(context) as server:
        url = yarl.URL(f"{server.url}/v2/x/manifests/y")
        made = session.Session(spoken, deadline=5.0, ca_bundle=None)
        made.start()
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await made.send("GET", url, {})
        await made.close()
        made = session.Session(spoken, deadline=5.0, ca_bundle=authority)
        made.start()
        (await made.send("GET", url, {})).release()
        other = yarl.URL(f"https://127.0.0.1:{url.port}/v2/")
        with pytest.raises(OSError, match="IP address mismatch"):
            await made.send("GET", other, {})
        await made.close()
        assert len(server.requests) == 1


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_authorities_that_cannot_be_read(tmp_path, text):
    path = tmp_path / "ca.crt"
    if text is not None:
        path.write_text(text)
    made = session.Session(words.Words("x.io"), deadline=None, ca_bundle=path)
    with pytest.raises(errors.ConfigError, match=f"certificate authorities in {path}: .") as raised:
        made.start()
    assert "PEM" in raised.value.hint
