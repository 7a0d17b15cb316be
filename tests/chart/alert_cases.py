"""Series that must make each alert fire, and series that must not, as promtool takes them.

A case is a world of its own, a sample a minute. `fires` says at which minutes which alerts are
there, with everything that a person is told; at the minutes of `silent` there is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

JOB = "my-team/chrek"
"""What the release's own monitor gives."""
AGENT = f'job="{JOB}",node="n1",app_kubernetes_io_component="agent",pod="chrek-agent-a"'
OTHER_AGENT = AGENT.replace("n1", "n2").replace("agent-a", "agent-b")
OPERATOR = f'job="{JOB}",node="n1",app_kubernetes_io_component="operator",pod="chrek-operator-a"'
STANDBY = OPERATOR.replace("operator-a", "operator-b")
FOREIGN = AGENT.replace(JOB, "their-team/chrek").replace("n1", "n9")
"""Of another release, whose alerts are its own; on a node where ours does not hide it."""
DAEMON_SET = 'namespace="my-team",daemonset="chrek-agent"'
NOT_OURS = DAEMON_SET.replace("chrek-agent", "another")
ELSEWHERE = DAEMON_SET.replace("my-team", "their-team")
GIB = 1 << 30

Alert = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One world."""

    alert: str
    name: str
    series: Mapping[str, str]
    fires: Mapping[int, Sequence[Alert]] = dataclasses.field(default_factory=dict)
    silent: Sequence[int] = ()

    def group(self) -> dict[str, Any]:
        """The test of promtool."""
        expected: dict[int, Sequence[Alert]] = {**dict.fromkeys(self.silent, ()), **self.fires}
        return {
            "name": f"{self.alert}: {self.name}",
            "interval": "1m",
            "input_series": [{"series": k, "values": v} for k, v in self.series.items()],
            "alert_rule_test": [
                {"eval_time": f"{minute}m", "alertname": self.alert, "exp_alerts": list(alerts)}
                for minute, alerts in sorted(expected.items())
            ],
        }


def told(
    alert: str, summary: str, description: str, severity: str = "warning", **labels: str
) -> Alert:
    """An alert that fires."""
    return {
        "exp_labels": {"severity": severity, **labels},
        "exp_annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": f"docs/runbooks.md#{alert.lower()}",
        },
    }


def restores(node: str, reason: str) -> Alert:
    return told(
        "ChrekRestoresFailing",
        f"Restores fail on {node}",
        f"In the last 15 minutes workers could not be restored on {node} ({reason}). Their next "
        "start is cold.",
        node=node,
        reason=reason,
    )


def cold(reason: str) -> Alert:
    return told(
        "ChrekColdDespiteReady",
        f"Pods start cold although their checkpoint is Ready: {reason}",
        f"In the last 30 minutes workers started cold with {reason}, and the DynamoCheckpoint that "
        "they name is Ready.",
        reason=reason,
    )


NEARLY_FULL = told(
    "ChrekStoreNearlyFull",
    "The store of checkpoints is nearly full",
    "The artifacts come close to the quota of the store, or are past it. Captures that do not fit "
    "wait with StoreNearlyFull.",
)


def store(operation: str, reason: str) -> Alert:
    return told(
        "ChrekStoreFailing",
        f"The store of checkpoints fails: {reason}",
        "In the last 15 minutes agents could not use the store or an artifact in it "
        f"({operation}: {reason}).",
        operation=operation,
        reason=reason,
    )


def suspect(namespace: str, count: int) -> Alert:
    return told(
        "ChrekCheckpointSuspect",
        f"A checkpoint is Suspect in namespace {namespace}",
        f"Workers restored from {count} DynamoCheckpoint(s) of namespace {namespace} died or never "
        "got Ready. Their pods start cold until a person has them made again.",
        exported_namespace=namespace,
    )


def missing(count: int) -> Alert:
    return told(
        "ChrekAgentMissing",
        f"{count} node(s) have no ready chrek agent",
        "Pods on nodes without a ready agent start cold and cannot be captured.",
    )


def not_ready(node: str) -> Alert:
    return told(
        "ChrekAgentNotReady",
        f"The chrek agent of {node} is not ready",
        f"The agent of {node} says that it cannot restore or capture, or does not answer "
        "Prometheus.",
        node=node,
    )


def preflight(node: str, check: str) -> Alert:
    return told(
        "ChrekPreflightFailed",
        f"Check {check} fails on {node}",
        f"The agent's own check {check} of {node} fails; until it passes, that agent serves "
        "nothing.",
        node=node,
        check=check,
    )


LEADERLESS = told(
    "ChrekOperatorWithoutLeader",
    "No chrek operator leads",
    "Nothing is captured, pruned or deleted, and no status is written. Pods still start warm from "
    "checkpoints that are Ready, as long as a replica answers the webhook.",
    "critical",
)

FAILED = 'outcome="failed",reason="CriuFailed"'


CASES = (
    Case(
        alert="ChrekRestoresFailing",
        name="a second failure",
        # The counter has been there for long, and counts at minute 30.
        series={f"chrek_starts_total{{{AGENT},{FAILED}}}": "1x29 2x40"},
        silent=[29, 30, 46],
        fires={31: [restores("n1", "CriuFailed")], 43: [restores("n1", "CriuFailed")]},
    ),
    Case(
        alert="ChrekRestoresFailing",
        name="the first failure, which begins the counter",
        series={f"chrek_starts_total{{{AGENT},{FAILED}}}": "_x30 1x40"},
        silent=[30, 45],
        fires={31: [restores("n1", "CriuFailed")], 44: [restores("n1", "CriuFailed")]},
    ),
    Case(
        alert="ChrekRestoresFailing",
        name="after the agent was replaced, and on a second node for another reason",
        series={
            f"chrek_starts_total{{{AGENT},{FAILED}}}": "7x20 stale",
            f"chrek_starts_total{{{AGENT.replace('-a', '-c')},{FAILED}}}": "_x39 1x20",
            f'chrek_starts_total{{{OTHER_AGENT},outcome="failed",reason="IpcConflict"}}': (
                "3x38 4x20"
            ),
        },
        silent=[39],
        fires={40: [restores("n1", "CriuFailed"), restores("n2", "IpcConflict")]},
    ),
    Case(
        alert="ChrekRestoresFailing",
        name="other outcomes, old failures, other releases",
        series={
            f'chrek_starts_total{{{AGENT},outcome="restored",reason="Restored"}}': "0+3x60",
            f'chrek_starts_total{{{AGENT},outcome="cold",reason="NoMatchingVariant"}}': "0+3x60",
            f"chrek_starts_total{{{OTHER_AGENT},{FAILED}}}": "5x60",
            f"chrek_starts_total{{{FOREIGN},{FAILED}}}": "0+3x60",
        },
        silent=[20, 40, 60],
    ),
    Case(
        alert="ChrekColdDespiteReady",
        name="on two nodes for one reason",
        series={
            f'chrek_cold_despite_ready_total{{{AGENT},reason="ImageDiffers"}}': "2x39 3x60",
            f'chrek_cold_despite_ready_total{{{OTHER_AGENT},reason="ImageDiffers"}}': "4x39 6x60",
        },
        silent=[39, 44, 75],
        fires={45: [cold("ImageDiffers")], 68: [cold("ImageDiffers")]},
    ),
    Case(
        alert="ChrekColdDespiteReady",
        name="the first, which begins the counter",
        series={f'chrek_cold_despite_ready_total{{{AGENT},reason="AgentBusy"}}': "_x40 1x60"},
        silent=[44, 70],
        fires={45: [cold("AgentBusy")], 69: [cold("AgentBusy")]},
    ),
    Case(
        alert="ChrekColdDespiteReady",
        name="cold without a checkpoint, long ago, another release",
        series={
            f'chrek_starts_total{{{AGENT},outcome="cold",reason="CheckpointNotReady"}}': "0+1x90",
            f'chrek_cold_despite_ready_total{{{AGENT},reason="ImageDiffers"}}': "2x90",
            f'chrek_cold_despite_ready_total{{{FOREIGN},reason="ImageDiffers"}}': "0+1x90",
        },
        silent=[50, 90],
    ),
    Case(
        alert="ChrekStoreNearlyFull",
        name="two namespaces together pass 90 of 100 GiB",
        series={
            f'chrek_operator_store_bytes{{{OPERATOR},exported_namespace="a"}}': f"{60 * GIB}x60",
            f'chrek_operator_store_bytes{{{OPERATOR},exported_namespace="b"}}': (
                f"{30 * GIB}x9 {31 * GIB}x29 {29 * GIB}x20"
            ),
            f"chrek_operator_store_quota_bytes{{{OPERATOR}}}": f"{100 * GIB}x60",
            f"chrek_operator_store_over_quota_bytes{{{OPERATOR}}}": "0x60",
        },
        silent=[9, 24, 40],
        fires={25: [NEARLY_FULL], 39: [NEARLY_FULL]},
    ),
    Case(
        alert="ChrekStoreNearlyFull",
        name="past the quota, and nothing may go",
        series={
            f'chrek_operator_store_bytes{{{OPERATOR},exported_namespace="a"}}': f"{12 * GIB}x40",
            f"chrek_operator_store_quota_bytes{{{OPERATOR}}}": f"{10 * GIB}x40",
            f"chrek_operator_store_over_quota_bytes{{{OPERATOR}}}": f"{2 * GIB}x40",
            # It does not lead, and has no quota to tell of.
            f"chrek_operator_store_quota_bytes{{{STANDBY}}}": "0x40",
            f"chrek_operator_store_over_quota_bytes{{{STANDBY}}}": "0x40",
        },
        silent=[14],
        fires={15: [NEARLY_FULL]},
    ),
    Case(
        alert="ChrekStoreNearlyFull",
        name="no quota, however much there is",
        series={
            f'chrek_operator_store_bytes{{{OPERATOR},exported_namespace="a"}}': f"{900 * GIB}x40",
            f"chrek_operator_store_quota_bytes{{{OPERATOR}}}": "0x40",
            f"chrek_operator_store_over_quota_bytes{{{OPERATOR}}}": "0x40",
        },
        silent=[20, 40],
    ),
    Case(
        alert="ChrekStoreFailing",
        name="the first error, and a further one of another kind",
        series={
            f'chrek_store_errors_total{{{AGENT},operation="capture",reason="StoreDenied"}}': (
                "_x30 1x40"
            ),
            f'chrek_store_errors_total{{{OTHER_AGENT},operation="open",reason="StoreFailed"}}': (
                "2x31 3x40"
            ),
        },
        silent=[34, 48],
        fires={
            35: [store("capture", "StoreDenied")],
            37: [store("capture", "StoreDenied"), store("open", "StoreFailed")],
        },
    ),
    Case(
        alert="ChrekStoreFailing",
        name="requests that were sent again, old errors, another release",
        series={
            f'chrek_store_retries_total{{{AGENT},operation="get"}}': "0+5x60",
            f'chrek_store_errors_total{{{AGENT},operation="open",reason="StoreFailed"}}': "9x60",
            f'chrek_store_errors_total{{{FOREIGN},operation="open",reason="StoreFailed"}}': (
                "0+1x60"
            ),
        },
        silent=[30, 60],
    ),
    Case(
        alert="ChrekCheckpointSuspect",
        name="two in one namespace, none in the other",
        series={
            f'chrek_operator_suspect_checkpoints{{{OPERATOR},exported_namespace="a"}}': (
                "0x4 2x10 0x10"
            ),
            f'chrek_operator_suspect_checkpoints{{{OPERATOR},exported_namespace="b"}}': "0x24",
        },
        silent=[4, 5, 16],
        fires={6: [suspect("a", 2)], 15: [suspect("a", 2)]},
    ),
    Case(
        alert="ChrekAgentMissing",
        name="two of three nodes for a quarter of an hour",
        series={
            f"kube_daemonset_status_desired_number_scheduled{{{DAEMON_SET}}}": "3x40",
            f"kube_daemonset_status_number_ready{{{DAEMON_SET}}}": "3x4 1x24 3x11",
        },
        silent=[4, 19, 30],
        fires={20: [missing(2)], 29: [missing(2)]},
    ),
    Case(
        alert="ChrekAgentMissing",
        name="a rollout, and other DaemonSets",
        series={
            f"kube_daemonset_status_desired_number_scheduled{{{DAEMON_SET}}}": "3x60",
            f"kube_daemonset_status_number_ready{{{DAEMON_SET}}}": "3x4 2x10 3x4 2x10 3x30",
            f"kube_daemonset_status_desired_number_scheduled{{{NOT_OURS}}}": "4x60",
            f"kube_daemonset_status_number_ready{{{NOT_OURS}}}": "0x60",
            f"kube_daemonset_status_desired_number_scheduled{{{ELSEWHERE}}}": "5x60",
            f"kube_daemonset_status_number_ready{{{ELSEWHERE}}}": "0x60",
        },
        silent=[14, 25, 40, 60],
    ),
    Case(
        alert="ChrekAgentNotReady",
        name="one says so, one does not answer",
        series={
            f"chrek_agent_ready{{{AGENT}}}": "1x4 0x30 1x10",
            f"up{{{AGENT}}}": "1x45",
            f"chrek_agent_ready{{{OTHER_AGENT}}}": "1x6 stale",
            f"up{{{OTHER_AGENT}}}": "1x6 0x40",
        },
        silent=[14],
        fires={
            15: [not_ready("n1")],
            17: [not_ready("n1"), not_ready("n2")],
            36: [not_ready("n2")],
        },
    ),
    Case(
        alert="ChrekAgentNotReady",
        name="a node whose pod is replaced, an operator that does not answer, another release",
        series={
            f"chrek_agent_ready{{{AGENT}}}": "1x9 0x2 stale",
            f"up{{{AGENT}}}": "1x12 stale",
            f"chrek_agent_ready{{{AGENT.replace('-a', '-c')}}}": "_x9 0x3 1x40",
            f"up{{{AGENT.replace('-a', '-c')}}}": "_x9 1x44",
            # On a node without an agent, whose `up` would hide this one.
            f"up{{{OPERATOR.replace('n1', 'n3')}}}": "0x50",
            f"chrek_agent_ready{{{FOREIGN}}}": "0x50",
        },
        silent=[12, 21, 40],
    ),
    Case(
        alert="ChrekPreflightFailed",
        name="one check of one node",
        series={
            f'chrek_preflight_failed{{{AGENT},check="store"}}': "0x4 1x20 0x10",
            f'chrek_preflight_failed{{{AGENT},check="criu"}}': "0x34",
            f'chrek_preflight_failed{{{OTHER_AGENT},check="store"}}': "0x34",
        },
        silent=[4, 14, 26],
        fires={15: [preflight("n1", "store")], 25: [preflight("n1", "store")]},
    ),
    Case(
        alert="ChrekOperatorWithoutLeader",
        name="two replicas, of which none leads",
        series={
            f"chrek_operator_leading{{{OPERATOR}}}": "1x4 0x20",
            f"chrek_operator_leading{{{STANDBY}}}": "0x15 1x10",
        },
        silent=[4, 9, 16, 20],
        fires={10: [LEADERLESS], 15: [LEADERLESS]},
    ),
    Case(
        alert="ChrekOperatorWithoutLeader",
        name="no replica at all, and that of another release",
        series={
            f"chrek_operator_leading{{{OPERATOR}}}": "1x4 stale",
            f"chrek_operator_leading{{{OPERATOR.replace(JOB, 'their-team/chrek')}}}": "1x20",
        },
        silent=[4, 9],
        fires={10: [LEADERLESS]},
    ),
    Case(
        alert="ChrekOperatorWithoutLeader",
        name="a change of leaders",
        series={
            f"chrek_operator_leading{{{OPERATOR}}}": "1x9 0x20",
            f"chrek_operator_leading{{{STANDBY}}}": "0x12 1x17",
        },
        silent=[9, 13, 25],
    ),
)
