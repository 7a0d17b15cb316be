"""What hooks ask the API server is what the chart's roles allow at that moment, and no more.

What people's commands ask is what the chart's README says, and what their roles allow.
"""

import json
import pathlib

import certifi
import msgspec
import pytest
import yaml
from click import testing

from chart import people, rendered
from chrek import cli, errors
from chrek.checks import settings
from chrek.hooks import crds, post_install, pre_upgrade, program
from fakes import agents as fake_agents
from fakes import api_server, release, warm

pytestmark = [
    pytest.mark.helm,
    pytest.mark.chart,
    pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning"),
]
CRDS = pathlib.Path(__file__).resolve().parents[2] / "charts" / "chrek" / "files" / "crds"
VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
HOOKS = {
    "pre-install": crds.check_and_apply,
    "pre-upgrade": pre_upgrade.prepare,
    "post-install": post_install.wait_and_write,
}
SERVER = {
    "type": "s3",
    "s3": {
        "uri": "s3://127.0.0.1:1/bucket",
        "plainHttp": True,
        "credentialsSecretRef": "creds",
        "caBundle": "authorities",
    },
    "encryption": {"keySecretRef": "secret-key"},
}
IDENTITIES = '[{"model":"m","backendFramework":"vllm"}]'
ELSEWHERE = "/apis/nvidia.com/v1alpha1/namespaces/b/dynamocheckpoints"
OURS = {
    "chrek.nvidia.com/release": "team-chrek",
    "app.kubernetes.io/managed-by": "chrek-hooks",
}


def asked(requests, objects):
    """Yields (namespace, API group, resource, name, verb) of each request; `objects` there were."""
    for method, path, _, _ in requests:
        if path == "/version":
            continue  # Everybody who is known may ask.
        group, parts = "", path.split("/")[3:]
        if path.startswith("/apis/"):
            group, parts = path.split("/")[2], path.split("/")[4:]
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        resource, name = "/".join([parts[0], *parts[2:]]), parts[1] if len(parts) > 1 else ""
        verb = VERBS.get(method) or ("get" if name else "list")
        yield namespace, group, resource, name, verb
        if verb == "patch" and path not in objects:
            # An apply that makes the object.
            yield namespace, group, resource, name, "create"


def rules(documents, event):
    """Yields (role, namespace, rule) of those that the hooks' account has at an event."""
    roles = {(d["kind"], d["metadata"].get("namespace"), rendered.name(d)): d for d in documents}
    for binding in rendered.of_kind(documents, "RoleBinding", "ClusterRoleBinding"):
        if binding["subjects"][0]["name"] != "chrek-hooks":
            continue
        events = rendered.events(binding)
        # Ordinary objects are not there before, or are those of the release before.
        if event not in events and (events or event.startswith("pre-")):
            continue
        namespace = binding["metadata"].get("namespace")
        role = roles[binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"]]
        for rule in role["rules"]:
            yield role, namespace, rule


def allows(namespace, rule, question):
    where, group, resource, name, verb = question
    return (
        namespace in (None, where)
        and group in rule["apiGroups"]
        and resource in rule["resources"]
        and verb in rule["verbs"]
        and name in rule.get("resourceNames", [name])
    )


def cluster(api):
    """One in which nothing is wrong, with a release that runs."""
    release.healthy(api)
    release.running(api, nodes=("n1",))
    api.add("/api/v1/namespaces", {}, name="b")
    for path in CRDS.glob("*.yaml"):
        api.add(release.CRDS, yaml.safe_load(path.read_text()))
    api.add("/apis/node.k8s.io/v1/runtimeclasses", {"handler": "nvidia"}, name="nvidia")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    api.add(release.SECRETS, {"data": keys}, name="creds")
    api.add(release.SECRETS, {"data": {"key": "a"}}, name="secret-key")
    authorities = pathlib.Path(certifi.where()).read_text()
    api.add(release.CONFIG_MAPS, {"data": {"ca.crt": authorities}}, name="authorities")
    # What the chart has made, and a hook at an earlier version of the values.
    api.add(release.CONFIG_MAPS, {}, name="chrek-identities")
    api.add(ELSEWHERE, {"spec": {}}, name="old", labels=OURS)


@pytest.fixture(params=["volume", "server"])
def documents(helm, request):
    prewarm = [{**release.prewarm(), "namespace": "b"}]
    flags = [
        "--set=dynamo-operator.watchNamespaces={team,b}",
        "--set=agent.runtimeClassName=nvidia",
        f"--set-json=checkpoint.prewarm={json.dumps(prewarm)}",
        f"--set-json=checkpoint.identities={IDENTITIES}",
    ]
    if request.param == "server":
        flags.append(f"--set-json=checkpoint.storage={json.dumps(SERVER)}")
    return helm.template(*flags, namespace="team")


def run(documents, event, folder, monkeypatch, *, ready=True):
    """What a hook asks; without `ready` no agent is."""
    found = rendered.find(documents, "ConfigMap", "chrek-hooks")
    for key, text in found["data"].items():
        (folder / key).write_text(text)
    definitions = rendered.find(documents, "ConfigMap", "chrek-hooks-crds")
    (folder / "crds").mkdir()
    for key, text in definitions["data"].items():
        (folder / "crds" / key).write_text(text)
    monkeypatch.setattr(program, "CRDS", folder / "crds")
    with api_server.ApiServer() as api, fake_agents.Agent() as agent:
        cluster(api)
        release.agent(api, "n1", ready=ready, port=agent.port)
        if event.startswith("pre-"):
            # One CRD is not there yet, or the chart before had not.
            del api.objects[f"{release.CRDS}/dynamographdeployments.nvidia.com"]
        config = msgspec.structs.replace(
            settings.load(folder / "release.yaml"),
            agentLabels=release.AGENT_LABELS,
            operatorLabels=release.OPERATOR_LABELS,
            timeoutSeconds=1,
        )
        there = set(api.objects)
        HOOKS[event](program.Context(release.connect(api), config, folder))
        return [*asked(api.requests, there)]


@pytest.mark.parametrize("ready", [True, False], ids=["ready", "not ready"])
@pytest.mark.parametrize("event", HOOKS)
def test_hooks_may_do_what_they_do(documents, event, ready, tmp_path, monkeypatch):
    held = [(namespace, rule) for _, namespace, rule in rules(documents, event)]
    questions = run(documents, event, tmp_path, monkeypatch, ready=ready)
    assert len(questions) > 5
    for question in questions:
        assert any(allows(namespace, rule, question) for namespace, rule in held), question


def test_hooks_have_no_right_that_none_of_them_uses(documents, tmp_path, monkeypatch):
    used = []
    for event in HOOKS:
        for ready in (True, False):
            folder = tmp_path / f"{event}-{ready}"
            folder.mkdir()
            used += run(documents, event, folder, monkeypatch, ready=ready)
    for event in HOOKS:
        for role, namespace, rule in rules(documents, event):
            if not rendered.events(role):
                continue  # Shared with the hook before an uninstallation.
            for verb in rule["verbs"]:
                single = {**rule, "verbs": [verb]}
                assert any(allows(namespace, single, one) for one in used), (event, single)


CHECKPOINT = ["checkpoint", "deployment/llm", "--model=m", "--backend=vllm"]
COMMANDS = {
    "list": ["list"],
    "show": ["show", "llama"],
    "diff CHECKPOINT": ["diff", "llama", "llama"],
    "diff POD": ["diff", "llm-1", "llama"],
    "diff deployment/NAME": ["diff", "deployment/llm", "llama"],
    "explain POD": ["explain", "llm-1"],
    "explain deployment/NAME": ["explain", "deployment/llm"],
    "report": ["report", "--output=-"],
    "retry": ["retry", "broken"],
    "retry --wait": ["retry", "broken", "--wait", "--timeout=0"],
    "checkpoint": [*CHECKPOINT, "--name=new"],
    "checkpoint --dry-run": [*CHECKPOINT, "--dry-run"],
    "checkpoint --wait": [*CHECKPOINT, "--name=new", "--wait", "--timeout=0"],
    "checkpoint --opt-in": [*CHECKPOINT, "--name=new", "--opt-in"],
}
"""As the README calls it -> how it is called here."""
APART = {"bench", "doctor", "import"}
"""Of these the README says more in words."""
SILENT = {
    *("agent", "completion", "copy", "dump", "export", "hash", "operator", "prune", "restore"),
    *("run", "verify"),
}
"""They ask with accounts of their own, or nobody."""


def person(api, folder):
    """A cluster with something for each command to do, and how a person finds it."""
    failed = {"variant": "a", "phase": "Failed", "reason": "CriuFailed", "message": "no"}
    broken = warm.checkpoint("broken", phase="Failed", captures=[failed])
    # Nobody says how it started, so its log is read; and a graph made it.
    pod = warm.pod("llm-1", labels={"nvidia.com/dynamo-graph-deployment-name": "graph"})
    warm.cluster(api, warm.checkpoint("llama"), broken, pods=[pod])
    api.add(warm.DEPLOYMENTS, warm.deployment("llm"))
    api.add(warm.GRAPHS, {}, name="graph")
    return {"KUBECONFIG": str(api.kubeconfig(folder, "team"))}


def invoke(words, folder, refused=()):
    """What a command asks, and whether it came to its end; `refused` are (method, path)."""
    with api_server.ApiServer() as api:
        environ = person(api, folder)
        for method, path in refused:
            api.refuse(method, path, status=403, message="no")
        there = set(api.objects)
        result = testing.CliRunner().invoke(cli.main, words, env=environ)
        known = (0, errors.ApiError.exit_code, errors.CheckpointError.exit_code)
        assert result.exit_code in known, result.output
        questions = [
            (f"{verb} {resource}", (method, path))
            for method, path, query, body in api.requests
            for *_, resource, _, verb in asked([(method, path, query, body)], there | {path})
        ]
        return questions, result


def derived(words, folder):
    """The rights without which a command fails, and those without which it says less."""
    needed, more = set(), set()
    for right, where in dict(invoke(words, folder)[0]).items():
        result = invoke(words, folder, [where])[1]
        failed = result.exit_code == errors.ApiError.exit_code
        assert not failed or "you may not" in result.stderr
        (needed if failed else more).add(right)
    return needed, more


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_says_what_a_command_asks(name, tmp_path):
    row = people.table()[name]
    assert (row.needs, row.more) == derived(COMMANDS[name], tmp_path)


def test_the_readme_speaks_of_every_command():
    assert people.table().keys() == COMMANDS.keys()
    told = {name.partition(" ")[0] for name in COMMANDS}
    assert told | APART | SILENT == set(cli._COMMANDS)
    text = people.section()
    assert all(f"`chrek {name}" in text for name in APART)


def test_roles_for_people_never_write_a_status_or_read_secrets(documents):
    roles = [d for d in rendered.of_kind(documents, "ClusterRole") if people.aggregated(d)]
    assert len(roles) == 2
    for rule in (rule for role in roles for rule in role["rules"]):
        assert rule["apiGroups"] == ["nvidia.com"]
        writes = {*rule["verbs"]} - {"get", "list", "watch"}
        assert not writes or not any("/" in resource for resource in rule["resources"])
