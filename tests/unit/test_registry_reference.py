"""Names of images, as container runtimes read them."""

import pytest

from chrek import errors
from chrek.registry import reference

SHA = "sha256:" + "0123456789abcdef" * 4

GOOD = {
    "busybox": ("docker.io", "library/busybox", "latest", ""),
    "busybox:1.36": ("docker.io", "library/busybox", "1.36", ""),
    "vllm/vllm-openai:v0.8.0": ("docker.io", "vllm/vllm-openai", "v0.8.0", ""),
    "docker.io/busybox": ("docker.io", "library/busybox", "latest", ""),
    "index.docker.io/library/busybox": ("docker.io", "library/busybox", "latest", ""),
    "registry-1.docker.io/acme/x": ("docker.io", "acme/x", "latest", ""),
    "nvcr.io/nvidia/ai-dynamo/vllm-runtime:0.9.0": (
        *("nvcr.io", "nvidia/ai-dynamo/vllm-runtime", "0.9.0", ""),
    ),
    "localhost/worker": ("localhost", "worker", "latest", ""),
    "localhost:5000/worker:2": ("localhost:5000", "worker", "2", ""),
    "host:5000/worker": ("host:5000", "worker", "latest", ""),
    "Host/worker": ("Host", "worker", "latest", ""),
    "[::1]:5000/worker": ("[::1]:5000", "worker", "latest", ""),
    "10.0.0.1/a/b_c__d--e.f": ("10.0.0.1", "a/b_c__d--e.f", "latest", ""),
    f"busybox@{SHA}": ("docker.io", "library/busybox", "", SHA),
    f"ghcr.io/acme/x:2@{SHA}": ("ghcr.io", "acme/x", "2", SHA),
    # Without a dot or a port the first part is a part of the path.
    "host/worker": ("docker.io", "host/worker", "latest", ""),
}

BAD = {
    "": "it is empty",
    f"@{SHA}": "a digest needs a repository",
    "busybox@sha256:12": "'sha256:12' is no digest",
    "busybox@": "'' is no digest",
    f"busybox@md5:{'0' * 32}": "is no digest",
    "busybox:": "'' is no tag",
    "busybox:-x": "'-x' is no tag",
    f"busybox:{'x' * 129}": "is no tag",
    "ghcr.io/Acme/x": "'Acme/x' is no repository",
    "Busybox": "'Busybox' is no repository",
    "ghcr.io/": "'' is no repository",
    "ghcr.io//x": "'/x' is no repository",
    "a/../b": "'a/../b' is no repository",
    "https://ghcr.io/x": "'https:' is no registry",
    "-x.io/y": "'-x.io' is no registry",
    "user:password@ghcr.io/x": "'ghcr.io/x' is no digest",
    "x.io:port/y": "'x.io:port' is no registry",
    "0123456789abcdef" * 4: "64 hexadecimal digits",
    "a" * 250: "longer than 255",
    "bus\nybox": "is no repository",
}


@pytest.mark.parametrize("text", GOOD)
def test_names(text):
    found = reference.parse(text)
    assert (found.registry, found.repository, found.tag, found.digest) == GOOD[text]
    assert reference.parse(str(found)) == found, "its own text means the same"
    assert found.wanted == (found.digest or found.tag)


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_name(text):
    with pytest.raises(errors.InputError) as raised:
        reference.parse(text)
    assert BAD[text] in raised.value.message
    assert repr(text)[:30].rstrip("'") in raised.value.message, "it names the value"


def test_docker_hub_answers_under_another_name():
    assert reference.endpoint("docker.io") == "registry-1.docker.io"
    assert reference.endpoint("ghcr.io") == "ghcr.io"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]:5000", "[::1]"]
)
def test_the_machine_itself(host):
    assert reference.is_loopback(host)


@pytest.mark.parametrize("host", ["ghcr.io", "10.0.0.1:5000", "localhost.example.com", "[fd00::1]"])
def test_other_machines(host):
    assert not reference.is_loopback(host)
