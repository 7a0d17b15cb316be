"""What the hook before an installation says of a store on a server."""

import base64
import datetime
import http.server
import socket
import ssl
import threading

import pytest

from chrek.checks import report
from chrek.checks import server as server_checks
from chrek.kube import credentials
from chrek.operator import certificates
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

OK, WARNING, FAILED = report.Status.OK, report.Status.WARNING, report.Status.FAILED
HIDDEN = "the-value"


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


@pytest.fixture(scope="module")
def bundle():
    now = datetime.datetime.now(datetime.UTC)
    return certificates.renewed(None, ["localhost"], now=now)


class Answering(http.server.BaseHTTPRequestHandler):
    """Refuses everybody, as servers of stores do."""

    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(params=["http", "https"])
def server(request, bundle):
    """An address, the paths that it was asked for, and the certificates to trust."""
    asked = []
    handler = type("Handler", (Answering,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        if request.param == "https":
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            credentials.load_certificate(context, bundle.certificate + bundle.key)
            listening.socket = context.wrap_socket(listening.socket, server_side=True)
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield f"{request.param}://localhost:{listening.server_port}", asked
        listening.shutdown()


def look(api, **server):
    if server.get("type") == "oci":
        server = {"uri": "oci://localhost:1/store", "plainHttp": True} | server
    wanted = release.config(server=server).store
    found = server_checks.storage(release.connect(api), wanted, namespace="team")
    return {outcome.name: outcome for outcome in found}


def at(address, kind="s3"):
    """The values of a server at this address."""
    host = address.partition("://")[2]
    plain = address.startswith("http:")
    return {"type": kind, "uri": f"{kind}://{host}/store", "plainHttp": plain}


def secret(api, name, *keys, **values):
    data = {key: base64.b64encode(HIDDEN.encode()).decode() for key in keys}
    api.add(release.SECRETS, {"data": data | values}, name=name)


def test_a_bucket_that_the_agents_own_account_opens(api):
    assert list(look(api).values()) == [
        report.ok("credentials", "those of the agents' own account")
    ]


def test_a_registry_that_asks_for_nothing(api):
    assert look(api, type="oci")["credentials"] == report.ok("credentials", "none")


def test_everything_that_the_values_name_is_there(api, bundle):
    secret(api, "creds", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    secret(api, "key", "key")
    text = f"# Tübitak\n{bundle.authorities.decode()}"
    api.add(release.CONFIG_MAPS, {"data": {"ca.crt": text}}, name="ca")
    found = look(api, credentialsSecret="creds", keySecret="key", caConfigMap="ca")
    assert list(found.values()) == [
        report.ok("credentials", "Secret team/creds: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        report.ok("certificates", "ConfigMap team/ca"),
        report.ok("encryption", "Secret team/key: key"),
    ]


@pytest.mark.parametrize(
    ("wanted", "name", "command", "value"),
    [
        (
            {"credentialsSecret": "x"},
            "credentials",
            "secret generic x --from-literal=AWS_ACCESS_KEY_ID=... "
            "--from-literal=AWS_SECRET_ACCESS_KEY=... -n team",
            "s3.credentialsSecretRef",
        ),
        (
            {"type": "oci", "credentialsSecret": "x"},
            "credentials",
            "secret docker-registry x --docker-server=... --docker-username=... "
            "--docker-password=... -n team",
            "oci.credentialsSecretRef",
        ),
        (
            {"keySecret": "x"},
            "encryption",
            'secret generic x --from-literal=key="$(head -c 32 /dev/urandom | base64)" -n team',
            "encryption.keySecretRef",
        ),
        (
            {"caConfigMap": "x"},
            "certificates",
            "configmap x -n team --from-file=ca.crt",
            "s3.caBundle",
        ),
        (
            {"type": "oci", "caConfigMap": "x"},
            "certificates",
            "configmap x -n team --from-file=ca.crt",
            "oci.caBundle",
        ),
    ],
)
def test_what_is_missing_is_told_with_the_command_that_makes_it(api, wanted, name, command, value):
    found = look(api, **wanted)[name]
    assert found.status is FAILED
    assert found.detail.endswith(" team/x: not found")
    assert found.hint == (
        f"run kubectl create {command}, or correct dynamo-operator.checkpoint.storage.{value}"
    )


@pytest.mark.parametrize(
    ("wanted", "keys", "detail"),
    [
        (
            {"type": "s3", "credentialsSecret": "x"},
            ["user", "password"],
            "Secret team/x has no AWS_ACCESS_KEY_ID and no AWS_SECRET_ACCESS_KEY; "
            "it has: password, user",
        ),
        (
            {"type": "s3", "credentialsSecret": "x"},
            ["AWS_ACCESS_KEY_ID"],
            "Secret team/x has no AWS_SECRET_ACCESS_KEY; it has: AWS_ACCESS_KEY_ID",
        ),
        (
            {"type": "oci", "credentialsSecret": "x"},
            [],
            "Secret team/x has no .dockerconfigjson; it has: nothing",
        ),
        ({"keySecret": "x"}, ["Key"], "Secret team/x has no key; it has: Key"),
    ],
)
def test_a_secret_without_the_keys_that_are_needed(api, wanted, keys, detail):
    secret(api, "x", *keys)
    (found,) = report.failures(look(api, **wanted).values())
    assert found.detail == detail
    assert "dynamo-operator.checkpoint.storage." in found.hint


def test_an_empty_key_is_none(api):
    secret(api, "x", "AWS_ACCESS_KEY_ID", AWS_SECRET_ACCESS_KEY="")
    found = look(api, credentialsSecret="x")["credentials"]
    assert found.detail == "Secret team/x has no AWS_SECRET_ACCESS_KEY; it has: AWS_ACCESS_KEY_ID"


def test_values_of_secrets_are_never_told(api):
    secret(api, "x", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "key")
    secret(api, "y", "AWS_ACCESS_KEY_ID")
    for name in ("x", "y"):
        text = "\n".join(
            report.lines(list(look(api, credentialsSecret=name, keySecret=name).values()))
        )
        assert HIDDEN not in text
        assert base64.b64encode(HIDDEN.encode()).decode() not in text


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        ({}, "has no ca.crt"),
        ({"ca.pem": "x"}, "has no ca.crt"),
        ({"ca.crt": "no certificate"}, "ca.crt cannot be read as certificates in PEM"),
        ({"ca.crt": "é"}, "ca.crt cannot be read as certificates in PEM"),
    ],
)
def test_a_config_map_without_certificates(api, data, detail):
    api.add(release.CONFIG_MAPS, {"data": data}, name="ca")
    found = look(api, caConfigMap="ca")["certificates"]
    assert found.status is FAILED
    assert detail in found.detail


@pytest.mark.parametrize(("kind", "path"), [("s3", "/"), ("oci", "/v2/")])
def test_a_server_that_answers(api, bundle, server, kind, path):
    address, asked = server
    api.add(release.CONFIG_MAPS, {"data": {"ca.crt": bundle.authorities.decode()}}, name="ca")
    found = look(api, **at(address, kind), caConfigMap="ca")["server"]
    assert found == report.ok("server", f"{address} answers (HTTP 403)")
    assert asked == [path]


def test_a_server_that_nobody_vouches_for(api, server):
    address, asked = server
    found = look(api, **at(address))["server"]
    if address.startswith("http:"):
        assert found.status is OK
        return
    assert found.status is WARNING, "the agents decide"
    assert "certificate verify failed" in found.detail
    assert asked == []


def test_a_server_that_does_not_answer(api):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    found = look(api, **at(address))["server"]
    assert found.status is WARNING
    assert found.detail.startswith(f"{address} does not answer here: ")
    assert "Connection refused" in found.detail
    assert found.hint.startswith("correct dynamo-operator.checkpoint.storage.s3")


def test_a_name_that_leads_nowhere(api):
    assert look(api, **at("https://no-such-host.invalid"))["server"].status is WARNING


def test_the_endpoint_counts(api, server):
    address, asked = server
    plain = address.startswith("http:")
    found = look(api, uri="s3://my.bucket/p", endpoint=address, plainHttp=plain)["server"]
    assert found.detail.startswith(address)
    assert asked == (["/"] if plain else [])


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"uri": "s3://my.bucket"}, "no bucket follows"),
        ({"type": "oci", "uri": "oci://registry"}, "no repository follows"),
        ({"type": "oci", "uri": "oci://docker.io/x"}, "without an owner"),
    ],
)
def test_values_that_the_agents_could_not_use(api, wanted, said):
    found = look(api, **wanted)["server"]
    assert found.status is FAILED
    assert said in found.detail
    assert found.hint


def test_a_server_that_says_something_else(api):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"SSH-2.0-x\r\n\r\n")

        threading.Thread(target=greet, daemon=True).start()
        found = look(api, **at(f"http://127.0.0.1:{listening.getsockname()[1]}"))["server"]
    assert found.status is WARNING


def test_a_server_is_not_asked_before_the_rest_is_there(api, server):
    address, asked = server
    assert "server" not in look(api, **at(address), credentialsSecret="none")
    assert asked == []
