"""Stores as command lines name them: which is meant, and what is refused before it is touched."""

import contextlib
import pathlib
import secrets

import pytest

from chrek import config, errors
from chrek import store as stores
from chrek.cli import ends
from chrek.remote import ocikeys
from fakes import node as nodes
from fakes import registry as registries

HASH = nodes.HASH
CONFIG = """
apiVersion: chrek.nvidia.com/v1alpha1
kind: AgentConfig
release: my-team-chrek
watchNamespaces: [my-team, other]
"""


def end(place, **options):
    none = {"credentials": None, "ca": None, "plain_http": False, "key": None, "namespace": ""}
    return ends.End.of(place, {f"from_{k}": v for k, v in (none | options).items()}, "from-")


@pytest.fixture
def open_end(tmp_path):
    """Opens a store; its scratch directory is below the test's."""
    (tmp_path / "scratch").mkdir()

    @contextlib.contextmanager
    def call(place, *, reads=False, config_path=pathlib.Path("/nonexistent.yaml"), **options):
        common = {"config_path": config_path, "scratch": tmp_path / "scratch"}
        with ends.opened(end(str(place), **options), common, reads=reads) as store:
            yield store
        assert list((tmp_path / "scratch").iterdir()) == []

    return call


@pytest.fixture
def registry():
    with registries.Registry() as made:
        yield made


def key(path):
    path.mkdir()
    (path / "key").write_text(secrets.token_hex(32))
    return path


def test_a_directory(open_end, tmp_path, monkeypatch):
    uuid, digest = nodes.make(stores.Store(tmp_path / "a"), {"x": b"x"})
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "a", "./a", f"../{tmp_path.name}/a"):
        with open_end(place) as store:
            assert store.stored_digest(HASH, nodes.VARIANT, uuid) == digest
    with open_end("./a", namespace="team") as store:
        assert store.location(HASH) == f"a/ns/team/{HASH}"


@pytest.mark.parametrize("place", ["", "checkpoints", "S3://b/x", "s3:/b", "http://x", "stores"])
def test_what_is_no_store(open_end, place):
    with pytest.raises(errors.InputError, match="is no store") as caught, open_end(place):
        pass
    assert "a leading / or ." in caught.value.hint


@pytest.mark.parametrize("place", ["s3://", "s3://B/x", "oci://registry", "oci://r/x:tag"])
def test_what_is_no_place_on_a_server(open_end, place):
    with pytest.raises(errors.ConfigError, match=r"storage\.(s3|oci)\.uri"), open_end(place):
        pass


@pytest.mark.parametrize("option", ["credentials", "ca", "plain_http", "key"])
@pytest.mark.parametrize("place", ["/checkpoints", "store"])
def test_options_that_mean_nothing(open_end, option, place):
    with (
        pytest.raises(errors.InputError, match=f"--from-{option.replace('_', '-')}: ") as caught,
        open_end(place, **{option: pathlib.Path("/x")}),
    ):
        pass
    assert caught.value.hint == "leave it out"


def test_the_settings_of_servers():
    options = {"credentials": pathlib.Path("/c"), "ca": pathlib.Path("/ca"), "plain_http": True}
    settings, own = ends._settings(end("s3://h.x/b", **options), pathlib.Path("/nonexistent"))
    assert settings == config.Storage(
        type="s3",
        s3=config.S3(uri="s3://h.x/b", plainHttp=True, caBundlePath="/ca", credentialsPath="/c"),
    )
    assert own == ""
    options |= {"key": pathlib.Path("/k"), "plain_http": False}
    settings, _ = ends._settings(end("oci://r.x/b", **options), pathlib.Path("/nonexistent"))
    assert settings == config.Storage(
        type="oci",
        oci=config.Oci(uri="oci://r.x/b", caBundlePath="/ca", credentialsPath="/c"),
        encryption=config.Encryption(keyPath="/k"),
    )


def test_the_releases_own(open_end, tmp_path, monkeypatch):
    path = tmp_path / "agent.yaml"
    path.write_text(f"{CONFIG}storage: {{pvc: {{basePath: {tmp_path}/volume}}}}\n")
    monkeypatch.setenv("POD_NAMESPACE", "my-team")
    for namespace, inside in (("", ""), ("my-team", ""), ("other", "ns/other/")):
        with open_end("store", config_path=path, namespace=namespace) as store:
            assert store.location(HASH) == f"{tmp_path}/volume/{inside}{HASH}"
    monkeypatch.delenv("POD_NAMESPACE")
    with open_end("store", config_path=path) as store:
        assert store.location(HASH) == f"{tmp_path}/volume/{HASH}"
    with pytest.raises(errors.ConfigError, match=r"/nonexistent\.yaml"), open_end("store"):
        pass


def test_the_cache_of_a_node_is_left_alone(open_end, registry, tmp_path):
    path = tmp_path / "agent.yaml"
    cache = tmp_path / "cache"
    path.write_text(
        f"{CONFIG}storage: {{type: oci, oci: {{uri: 'oci://{registry.host}/c', plainHttp: true}}, "
        f"cache: {{path: {cache}}}}}\n"
    )
    with open_end("store", config_path=path) as store:
        uuid, digest = nodes.make(store, {"x": b"x"})
        assert store.base.is_relative_to(tmp_path / "scratch")
    with open_end(f"oci://{registry.host}/c", plain_http=True) as store:
        assert store.artifacts() == [(HASH, nodes.VARIANT, uuid)]
        with store.fetched(store.open(HASH, nodes.VARIANT, uuid, digest)) as found:
            assert nodes.contents(found.path) == {"x": b"x"}
    assert not cache.exists()


def test_a_key_for_a_store_that_has_none_is_refused(open_end, registry, tmp_path):
    """From then on it would be an encrypted one, and what is in it could not be read any more."""
    place = f"oci://{registry.host}/c"
    secret = key(tmp_path / "key")
    with (
        pytest.raises(errors.InputError, match=r"--from-key: oci://.* is not encrypted"),
        open_end(place, reads=True, plain_http=True, key=secret),
    ):
        pass
    assert not registry.manifests, "an empty one as well, when it is read"
    with open_end(place, plain_http=True, namespace="team") as store:
        uuid, _ = nodes.make(store, {"x": b"x"})
    before = dict(registry.manifests)
    with (
        pytest.raises(errors.InputError, match="is not encrypted"),
        open_end(place, plain_http=True, key=secret, namespace="team"),
    ):
        pass
    assert registry.manifests == before
    with open_end(place, reads=True, plain_http=True, namespace="team") as store:
        assert store.artifacts() == [(HASH, nodes.VARIANT, uuid)]


def test_a_store_that_is_encrypted(open_end, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(ocikeys, "SETTLE_SECONDS", 0.5)
    place = f"oci://{registry.host}/c"
    secret = key(tmp_path / "key")
    with open_end(place, plain_http=True, key=secret) as store:
        uuid, digest = nodes.make(store, {"x": b"secret of the worker" * 99})
    assert not any(b"secret of the worker" in blob for blob in registry.blobs.values())
    for reads in (True, False):
        with (
            open_end(place, reads=reads, plain_http=True, key=secret) as store,
            store.fetched(store.open(HASH, nodes.VARIANT, uuid, digest)) as found,
        ):
            assert nodes.contents(found.path) == {"x": b"secret of the worker" * 99}
    for wrong in ({}, {"key": key(tmp_path / "other")}):
        with (
            open_end(place, reads=True, plain_http=True, **wrong) as store,
            pytest.raises(errors.StoreError),
        ):
            store.artifacts()
