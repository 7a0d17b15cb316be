"""Alerts, dashboard and documents know the metrics that there are.

That the expressions are ones of PromQL is promtool's to say, also in test_alerts.py. It knows no
metrics, so names and labels are looked up here.
"""

import itertools
import json
import pathlib
import re

import prometheus_client
import pytest
import yaml

from chart import rendered
from chrek import cli
from chrek.agent import metrics as agent
from chrek.operator import metrics as operator

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = ROOT / "charts" / "chrek" / "files"
FLAGS = tuple(
    f"--set={name}.enabled=true"
    for name in ("podMonitor", "monitoring.rules", "monitoring.dashboard")
)
FOREIGN = {
    "up": {"job", "node", "app_kubernetes_io_component"},
    "kube_daemonset_status_desired_number_scheduled": {"namespace", "daemonset"},
    "kube_daemonset_status_number_ready": {"namespace", "daemonset"},
}
"""Of Prometheus itself and of kube-state-metrics, which the runbook says."""
TARGET = {"job", "node", "exported_namespace"}
"""What Prometheus adds, or makes of `namespace`."""
WORDS = {
    *("sum", "max", "min", "count", "rate", "increase", "histogram_quantile", "absent", "vector"),
    *("time", "by", "unless", "and", "or", "offset"),
}
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
VARIABLE = re.compile(r"\$__\w+|\$\w+")


def metrics():
    """Each metric of both programs: name as scraped -> its type, labels and meaning."""
    found = {}
    for module in (agent, operator):
        for value in vars(module).values():
            if isinstance(value, prometheus_client.metrics.MetricWrapperBase):
                (family,) = value.describe()
                name = family.name + ("_total" if family.type == "counter" else "")
                found[name] = (family.type, value._labelnames, family.documentation)
    return found


METRICS = metrics()


def series():
    """Every name that may stand in an expression, with its labels."""
    found = dict(FOREIGN)
    for name, (kind, labels, _) in METRICS.items():
        known = {*labels, *TARGET} - {"namespace"}
        if kind == "histogram":
            found |= {f"{name}_bucket": {*known, "le"}}
            found |= {f"{name}_sum": known, f"{name}_count": known}
        else:
            found[name] = known
    return found


SERIES = series()


def problems(expression):
    """What is wrong with the names of an expression."""
    found = []
    bare = VARIABLE.sub("1m", STRING.sub('""', expression))
    used = set()
    for name, matchers in re.findall(r"\b([a-z_]\w*)\{([^}]*)\}", bare):
        used |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) - SERIES.get(name, set())
    of = set().union(*(SERIES.get(name, set()) for name in re.findall(r"[a-z_]\w*", bare)))
    for labels in re.findall(r"\bby\s*\(([^)]*)\)", bare):
        used |= {label.strip() for label in labels.split(",")} - of
    found += [f"label {label} is not of that series" for label in sorted(used)]
    # What is left when matchers, groupings and durations are gone: series, functions, operators.
    rest = re.sub(r"\{[^}]*\}|\bby\s*\([^)]*\)|\[[^\]]*\]|\boffset\s+\w+", " ", bare)
    names = set(re.findall(r"\b[a-z_]\w*", rest)) - WORDS - {"job"}
    found += [f"{name} is no metric" for name in sorted(names - SERIES.keys())]
    for name in names & METRICS.keys():
        counts = METRICS[name][0] == "counter"
        series = rf"{name}\{{[^}}]*\}}"
        rated = re.search(rf"\b(rate|increase)\(\s*{name}\b|{series} - {series} offset", bare)
        if counts and not rated:
            found.append(f"{name} only ever grows: what it grew by is asked")
    return found


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ('sum(increase(chrek_starts_total{outcome="failed"}[5m])) > 0', []),
        ("chrek_starts_total{} - chrek_starts_total{} offset $__interval", []),
        ("rate(chrek_start_total[5m])", ["chrek_start_total is no metric"]),
        ('rate(chrek_starts_total{step="x"}[5m])', ["label step is not of that series"]),
        ("sum by (pod) (rate(chrek_starts_total[5m]))", ["label pod is not of that series"]),
        ("sum(chrek_step_seconds)", ["chrek_step_seconds is no metric"]),
        (
            "chrek_starts_total > 1",
            ["chrek_starts_total only ever grows: what it grew by is asked"],
        ),
    ],
)
def test_the_check_finds(expression, said):
    found = problems(expression)
    assert set(said) <= set(found)
    assert bool(said) == bool(found)


@pytest.fixture(scope="module")
def documents(helm):
    return helm.template(*FLAGS)


@pytest.fixture(scope="module")
def rules(documents):
    (document,) = rendered.of_kind(documents, "PrometheusRule")
    return [rule for group in document["spec"]["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def dashboard(documents):
    (found,) = rendered.maps_with(documents, "chrek.json")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    return json.loads(found["data"]["chrek.json"])


def test_alerts_are_whole(rules):
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert problems(rule["expr"]) == [], rule["alert"]
        assert re.fullmatch(r"[1-9][0-9]*m", rule["for"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url"}
        assert "@" not in json.dumps(rule)
        told = set(re.findall(r"\$labels\.(\w+)", notes["summary"] + notes["description"]))
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
        assert told <= kept, f"{rule['alert']} tells of labels that its expression drops"


def test_alerts_look_for_what_the_monitor_gives(rules, documents):
    (monitor,) = rendered.of_kind(documents, "PodMonitor")
    job = f'job="{monitor["metadata"]["namespace"]}/{monitor["metadata"]["name"]}"'
    for rule in rules:
        for name in re.findall(r"\b((?:chrek_|up\b)\w*)", STRING.sub('""', rule["expr"])):
            assert f"{name}{{{job}" in rule["expr"], rule["alert"]
    component = {"app.kubernetes.io/component"}
    assert component <= set(monitor["spec"]["podTargetLabels"])
    (daemon_set,) = rendered.of_kind(documents, "DaemonSet")
    (missing,) = [rule["expr"] for rule in rules if rule["alert"] == "ChrekAgentMissing"]
    assert f'daemonset="{daemon_set["metadata"]["name"]}"' in missing


def test_every_alert_has_its_runbook(rules):
    text = (ROOT / "docs" / "runbooks.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    assert list(sections) == [rule["alert"] for rule in rules]
    for rule in rules:
        expected = f"docs/runbooks.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == expected
    for name, section in sections.items():
        parts = ("**What it means.**", "**First commands.**\n\n```sh\n", "**What mends it.**")
        assert all(part in section for part in parts), name


def test_the_commands_of_the_runbooks_are_there():
    text = (ROOT / "docs" / "runbooks.md").read_text()
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    asked = [line.split() for line in lines if line.startswith("chrek ")]
    assert len(asked) > 8
    assert all(line.startswith(("chrek ", "kubectl ")) for line in lines)
    for _, name, *arguments in asked:
        command = cli.main.get_command(None, name)
        command.make_context(name, arguments)


def test_the_dashboard_is_whole(dashboard):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in (panel for panel in panels if panel["type"] != "row"):
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert problems(target["expr"]) == [], panel["title"]
            assert target["expr"].count("chrek_") == target["expr"].count('{job=~"$job"')
    assert {"datasource", "job"} == {one["name"] for one in dashboard["templating"]["list"]}


def test_its_queries_parse(dashboard, promtool):
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    text, good = promtool.parse(VARIABLE.sub("1m", target["expr"]) for target in targets)
    assert good, text
    assert f"SUCCESS: {len(targets)} rules found" in text
    text, good = promtool.parse([targets[0]["expr"]])
    assert not good, "a variable of Grafana is none of Prometheus"


def test_what_is_counted_in_each_interval_has_a_least_one(dashboard):
    """Grafana's own would be seconds, where one looks at minutes."""
    for panel in dashboard["panels"]:
        asked = any("$__interval" in target["expr"] for target in panel.get("targets", ()))
        assert asked == (panel.get("interval") == "2m"), panel["title"]


def test_panels_do_not_overlap(dashboard):
    cells = set()
    for panel in dashboard["panels"]:
        where = panel["gridPos"]
        xs = range(where["x"], where["x"] + where["w"])
        taken = set(itertools.product(xs, range(where["y"], where["y"] + where["h"])))
        assert max(xs) < 24
        assert not taken & cells, panel["title"]
        cells |= taken


def test_every_metric_is_on_the_dashboard(dashboard):
    text = json.dumps(dashboard)
    assert [name for name in METRICS if name not in text] == []


def test_every_metric_is_documented():
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    listed = [
        (name, kind, tuple(re.findall(r"\w+", labels)), told) for name, kind, labels, told in rows
    ]
    assert listed == [(name, *about) for name, about in METRICS.items()]


def test_the_example_of_the_documents_renders(helm, tmp_path):
    (text,) = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "metrics.md").read_text(), re.DOTALL
    )
    assert yaml.safe_load(text)["monitoring"]["rules"]["enabled"]
    file = tmp_path / "values.yaml"
    file.write_text(text)
    documents = helm.template(f"--values={file}")
    (rule,) = rendered.of_kind(documents, "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_placeholders_are_all_filled_in():
    words = set(re.findall(r"@[A-Z_]+@", (FILES / "alerts.yaml").read_text()))
    assert words == {"@SELECTOR@", "@NAMESPACE@", "@DAEMONSET@", "@NEARLY_FULL@", "@RUNBOOKS@"}
