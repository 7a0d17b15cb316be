import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from chrek.hooks import counter


@pytest.fixture
def url(monkeypatch):
    for key, value in (("nonce", "n"), ("count", 0), ("ready", False)):
        monkeypatch.setattr(counter.Handler, key, value)
    with counter.Server(0) as server:
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


def test_it_counts_the_questions(url):
    assert ask(f"{url}/count") == {"nonce": "n", "count": 1}
    assert ask(f"{url}/count") == {"nonce": "n", "count": 2}


def test_it_is_ready_once_it_was_told_to_go(url, tmp_path, monkeypatch):
    ready_file = tmp_path / "ready"
    monkeypatch.setenv("DYN_READY_FOR_CHECKPOINT_FILE", str(ready_file))
    assert refused(f"{url}/ready") == 503
    assert not ready_file.exists()
    assert ask(f"{url}/go", "POST") == {"ready": True}
    assert ask(f"{url}/ready") == {"ready": True}
    assert ready_file.exists()


def test_other_paths_are_not_found(url):
    assert refused(f"{url}/nonce") == 404
    assert refused(f"{url}/count", "POST") == 404


def test_a_process_draws_a_nonce_of_its_own():
    code = "from chrek.hooks import counter; print(counter.Handler.nonce)"
    drawn = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(drawn) == 2


def test_it_loads_nothing_but_the_standard_library():
    code = "import json, sys, chrek.hooks.counter; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert {"click", "kubernetes", "msgspec", "yaml"}.isdisjoint(json.loads(out.stdout))
