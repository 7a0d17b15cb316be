"""What people may do on a cluster with Kubernetes' own roles, as long as a release is there."""

import functools
import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest
import yaml

from chart import live as lives
from chart import people
from chrek import errors
from fakes import warm

pytestmark = [pytest.mark.cluster, pytest.mark.helm]

NAME = "chart-people"
HERE = f"--namespace={NAME}"
BARE = [
    *("--set=checkpoint.enabled=false", "--set=storage.pvc.create=false"),
    *("--set=hooks.enabled=false", "--set=tests.enabled=false"),
]
"""A release of which nothing runs."""
GROUPS = {"deployments": "deployments.apps", "dynamocheckpoints": "dynamocheckpoints.nvidia.com"}
CHECKPOINTS = GROUPS["dynamocheckpoints"]
COMMANDS = {"chrek": "from chrek.cli import main; main()"}
COMMANDS["kubectl_complete-chrek"] = "from chrek.cli import shells; shells.kubectl()"


class Person:
    """An account that is bound to one of Kubernetes' roles in the namespace, and its kubeconfig."""

    def __init__(self, live, role, folder):
        live.kubectl("create", "serviceaccount", role, HERE)
        account = f"--serviceaccount={NAME}:{role}"
        live.kubectl("create", "rolebinding", role, f"--clusterrole={role}", account, HERE)
        view = live.kubectl("config", "view", "--raw", "--minify", "--output=json").stdout
        raw = json.loads(view)
        token = live.kubectl("create", "token", role, HERE).stdout
        raw["users"][0]["user"] = {"token": token}
        raw["contexts"][0]["context"]["namespace"] = NAME
        self.config = folder / f"{role}.json"
        self.config.write_text(json.dumps(raw))
        self.live = live
        self.folder = folder

    def chrek(self, *words):
        return subprocess.run(
            [self.folder / "chrek", *words],
            env={**os.environ, "KUBECONFIG": str(self.config)},
            capture_output=True,
            text=True,
            check=False,
        )

    def kubectl(self, *words):
        config = f"--kubeconfig={self.config}"
        return self.live.kubectl(*words, config, check=False)

    def may(self, verb, resource):
        kind, _, sub = resource.partition("/")
        subresource = [f"--subresource={sub}"] if sub else []
        done = self.kubectl("auth", "can-i", verb, GROUPS.get(kind, kind), *subresource)
        assert done.stdout in ("yes\n", "no\n"), done.stderr
        return done.stdout == "yes\n"


@functools.cache
def program(folder, name):
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{COMMANDS[name]}\n")
    path.chmod(0o755)


def until(ready, what, seconds=30):
    """Kubernetes adds roles to its own, and takes them out, in its own time."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"not so after {seconds} s: {what}"
        time.sleep(0.2)


def make(live, item):
    """A DynamoCheckpoint with the status that an operator would write."""
    metadata = {key: item["metadata"][key] for key in ("name", "namespace")}
    metadata["namespace"] = NAME
    live.kubectl("create", "--filename=-", stdin=yaml.safe_dump({**item, "metadata": metadata}))
    patch = json.dumps({"status": item["status"]})
    status = ("--subresource=status", "--type=merge", f"--patch={patch}")
    live.kubectl("patch", CHECKPOINTS, metadata["name"], HERE, *status)


@pytest.fixture(scope="module")
def team(live, tmp_path_factory):
    """Persons by their role, in a namespace with a release, a workload and checkpoints."""
    folder = tmp_path_factory.mktemp("people")
    for name in COMMANDS:
        program(folder, name)
    with lives.namespace(live, NAME):
        live.helm("install", "chrek", lives.CHART, HERE, *BARE)
        failed = {"variant": "a", "phase": "Failed", "reason": "CriuFailed", "message": "no"}
        # They are of one identity, whose oldest object has the artifacts.
        make(live, warm.checkpoint("broken", phase="Failed", captures=[failed]))
        make(live, warm.checkpoint("llama"))
        workload = warm.deployment("llm")
        workload["apiVersion"] = "apps/v1"
        workload["metadata"].pop("namespace")
        template = workload["spec"]["template"]
        template["metadata"] = {"labels": {"app": "llm"}}
        template["spec"]["nodeSelector"] = {"no": "where"}
        live.kubectl("create", HERE, "--filename=-", stdin=yaml.safe_dump(workload))
        until(
            lambda: "llm-" in live.kubectl("get", "pods", HERE, "--output=name").stdout,
            "the workload has a pod",
        )
        persons = {role: Person(live, role, folder) for role in ("view", "edit", "admin")}
        until(lambda: persons["view"].may("list", "dynamocheckpoints"), "view has the role")
        until(lambda: persons["edit"].may("patch", "dynamocheckpoints"), "edit has the role")
        until(lambda: persons["admin"].may("patch", "dynamocheckpoints"), "admin has the role")
        try:
            yield persons
        finally:
            live.helm("uninstall", "chrek", HERE, check=False)


def test_who_may_view_reads(team):
    for words in (["list"], ["show", "llama"], ["explain", "deployment/llm"], ["report", "-o-"]):
        done = team["view"].chrek(*words)
        assert done.returncode == 0, done.stderr
    assert "llama" in team["view"].chrek("list").stdout


def test_who_may_view_changes_nothing_and_is_told_why(team):
    done = team["view"].chrek("retry", "broken")
    assert done.returncode == errors.ApiError.exit_code
    said = f"you may not patch {CHECKPOINTS} in namespace {NAME}"
    assert done.stderr.startswith(f"error: {said}\n")
    assert f"kubectl auth can-i patch {CHECKPOINTS} -n {NAME}" in done.stderr


def test_who_may_edit_has_checkpoints_made(team, live):
    asking = ["checkpoint", "deployment/llm", "--model=m", "--backend=vllm", "--name=new"]
    for words in (["retry", "broken"], [*asking, "--dry-run"], asking):
        done = team["edit"].chrek(*words)
        assert done.returncode == 0, done.stderr
    annotations = live.get(CHECKPOINTS, "broken", HERE)["metadata"]["annotations"]
    assert "chrek.nvidia.com/retry" in annotations
    done = team["edit"].kubectl("delete", CHECKPOINTS, "new", HERE)
    assert done.returncode == 0, done.stderr


def test_the_roles_give_what_the_readme_says(team):
    asked = {}
    for row in people.table().values():
        for right in row.needs:
            asked.setdefault(right, set()).add(row.role)
    assert len(asked) >= 8
    for right, roles in asked.items():
        verb, resource = right.split()
        assert team["edit"].may(verb, resource), right
        # What a command needs of which the README says `view`, that role has.
        assert "view" not in roles or team["view"].may(verb, resource), right
    for name, row in people.table().items():
        if row.role == "edit":
            assert not all(team["view"].may(*right.split()) for right in row.needs), name


def test_nobody_writes_a_status(team):
    for role, person in team.items():
        assert not person.may("patch", "dynamocheckpoints/status"), role
        assert not person.may("update", "dynamocheckpoints/status"), role
    patch = '--patch={"status": {"variants": []}}'
    status = ("--subresource=status", "--type=merge", patch)
    done = team["admin"].kubectl("patch", CHECKPOINTS, "llama", HERE, *status)
    assert "cannot patch resource" in done.stderr
    assert not team["view"].may("get", "secrets")
    assert not team["view"].may("create", "pods/exec")


def test_somebody_may_import_for_a_time(team, live):
    """By the commands of the README."""
    (block,) = re.findall(r"```bash\n(.*?)```", people.section(), re.DOTALL)
    here = {"my-team": NAME, "--user=jane": f"--serviceaccount={NAME}:edit"}
    lines = [
        [here.get(word, word) for word in shlex.split(line)[1:]] for line in block.splitlines()
    ]
    assert [line[0] for line in lines] == ["create", "create", "delete"]
    for line in lines[:2]:
        live.kubectl(*line)
    until(lambda: team["edit"].may("patch", "dynamocheckpoints/status"), "edit may import")
    live.kubectl(*lines[2])
    until(lambda: not team["edit"].may("patch", "dynamocheckpoints/status"), "no longer")


def test_kubectl_completes_names_of_the_cluster(team):
    person = team["view"]
    path = f"{person.folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [person.live.program("kubectl"), "__complete", "chrek", "show", "l"],
        env={**os.environ, "PATH": path, "KUBECONFIG": str(person.config)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "llama\n:4\n"


def test_rights_go_with_the_last_release(team, live):
    """Those of a release in another namespace go on."""
    view, ours = team["view"], ("view", "edit")
    live.helm("install", "blue-chrek", lives.CHART, HERE, *BARE)
    live.helm("uninstall", "chrek", HERE)

    def there():
        listed = live.kubectl("get", "clusterroles", "--output=name").stdout.split()
        return {name.rpartition("/")[2] for name in listed}

    assert {f"{NAME}-blue-chrek-{role}" for role in ours} <= there()
    assert view.may("list", "dynamocheckpoints")
    live.helm("uninstall", "blue-chrek", HERE)
    assert not [name for name in there() if name.startswith(NAME)]
    selector = "--selector=app.kubernetes.io/component=people"

    def gone():
        left = live.kubectl("get", "clusterroles", selector, "--output=name").stdout
        return bool(left) or not view.may("list", "dynamocheckpoints")

    until(gone, "view has no rights of chrek")
