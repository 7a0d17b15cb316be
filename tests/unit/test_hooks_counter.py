import hashlib
import json
import pathlib
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from chrek.hooks import counter


@pytest.fixture
def places(tmp_path):
    made = [tmp_path / name for name in ("root", "empty", "shm")]
    for place in made:
        place.mkdir()
    return [str(place) for place in made]


@pytest.fixture
def state(places):
    return counter.State(places)


@pytest.fixture
def url(state):
    with counter.Server(0, state) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        host = server.server_address[0]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104
        yield f"http://{host}:{server.server_port}"
        server.shutdown()


def ask(url, method="GET"):
    request = urllib.request.Request(url, method=method)  # noqa: S310 - always http
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - as above
        return json.load(answer)


def refused(url, method="GET"):
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(url, method)
    with caught.value as error:
        return error.code


def test_it_counts_the_questions(url, state):
    assert ask(f"{url}/count") == {"nonce": state.nonce, "count": 1}
    assert ask(f"{url}/count") == {"nonce": state.nonce, "count": 2}


def test_it_is_ready_once_it_was_told_to_go(url, tmp_path, monkeypatch):
    ready_file = tmp_path / "ready"
    monkeypatch.setenv("DYN_READY_FOR_CHECKPOINT_FILE", str(ready_file))
    assert refused(f"{url}/ready") == 503
    assert not ready_file.exists()
    assert ask(f"{url}/go", "POST") == {"ready": True}
    assert ask(f"{url}/ready") == {"ready": True}
    assert ready_file.exists()


def test_the_digest_of_the_ballast_is_of_what_is_in_memory_now(url, state):
    before = ask(f"{url}/ballast")
    assert before == {
        "bytes": counter.BALLAST_BYTES,
        "digest": hashlib.sha256(state.ballast).hexdigest(),
    }
    state.ballast = state.ballast[:-1] + bytes([state.ballast[-1] ^ 1])
    after = ask(f"{url}/ballast")
    assert after["bytes"] == before["bytes"]
    assert after["digest"] != before["digest"]


def test_it_has_a_file_in_each_place_and_one_that_is_deleted(url, places):
    found = ask(f"{url}/files")
    assert found["problems"] == {}
    *kept, deleted = found["digests"]
    assert [str(pathlib.Path(path).parent) for path in kept] == places
    assert deleted.endswith(" (deleted)")
    assert not pathlib.Path(deleted.removesuffix(" (deleted)")).exists()
    for path in kept:
        data = pathlib.Path(path).read_bytes()
        assert len(data) == counter.FILE_BYTES
        assert found["digests"][path] == hashlib.sha256(data).hexdigest()
    assert len(set(found["digests"].values())) == 4
    assert ask(f"{url}/files") == found


def test_files_are_read_again_for_each_answer(url, places):
    before = ask(f"{url}/files")["digests"]
    changed, gone, *_ = before
    pathlib.Path(changed).write_bytes(b"other")
    pathlib.Path(gone).unlink()
    after = ask(f"{url}/files")
    assert after["digests"][changed] == hashlib.sha256(b"other").hexdigest()
    assert gone not in after["digests"]
    assert "No such file" in after["problems"][gone]


def test_what_cannot_be_written_is_told(tmp_path):
    missing = str(tmp_path / "missing")
    found = counter.Files([missing]).answer()
    assert found["digests"] == {}
    assert len(found["problems"]) == 2
    assert all("No such file" in text and missing in text for text in found["problems"].values())


def test_other_paths_are_not_found(url):
    assert refused(f"{url}/nonce") == 404
    assert refused(f"{url}/count", "POST") == 404


def test_a_process_draws_and_writes_everything_anew(places):
    first, second = counter.State(places), counter.State(places)
    assert first.nonce != second.nonce
    assert first.ballast != second.ballast
    digests = [state.files.answer()["digests"] for state in (first, second)]
    assert not set(digests[0]) & set(digests[1])
    assert not set(digests[0].values()) & set(digests[1].values())


def test_it_loads_nothing_but_the_standard_library():
    code = "import json, sys, chrek.hooks.counter; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert {"click", "kubernetes", "msgspec", "yaml"}.isdisjoint(json.loads(out.stdout))
