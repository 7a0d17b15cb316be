"""What `chrek bench` asks the API server before it makes a pod.

Whoever may create pods and not delete them must learn it before there is one, and whether chrek
prepares a pod for a warm start is known without starting it.
"""

from __future__ import annotations

from typing import Any

from chrek import cli, errors, names
from chrek.cli import bench_pods, reading, unmanaged

Object = dict[str, Any]

VERBS = ("create", "get", "watch", "delete")
"""What is done with pods."""
_REVIEWS = ("authorization.k8s.io/v1", "selfsubjectaccessreviews")


def rights(reader: reading.Reader) -> None:
    """Ask for the rights that are needed; who may not ask is not kept from trying.

    Raises:
        ApiError: one is missing.
    """
    from chrek.kube import workstation

    for verb in VERBS:
        wanted = {"namespace": reader.namespace, "verb": verb, "resource": reading.PODS[1]}
        body = {
            "apiVersion": _REVIEWS[0],
            "kind": "SelfSubjectAccessReview",
            "metadata": {},
            "spec": {"resourceAttributes": wanted},
        }
        try:
            answer = reader.cluster.create(workstation.path(*_REVIEWS), body)
        except errors.ApiError as err:
            if err.status not in (403, 404):
                raise reading.explained(err, verb, reading.PODS, reader.namespace) from err
            return
        if (answer.get("status") or {}).get("allowed") is False:
            refused = errors.ApiError("", status=403)
            raise reading.explained(refused, verb, reading.PODS, reader.namespace)


def admitted(reader: reading.Reader, plan: bench_pods.Plan, items: list[Object]) -> None:
    """Have the server admit a pod of each kind without making it, and look what chrek did to it.

    Args:
        reader: of the namespace.
        plan: what is measured.
        items: DynamoCheckpoints of the namespace.

    Raises:
        ApiError: the server, a quota or a policy refuses such pods.
        InputError: the warm one would not be prepared, or the cold one would.
        UnsupportedError: chrek cannot manage such pods.
    """
    from chrek.operator import podshape

    for kind in dict.fromkeys(turn.kind for turn in plan.turns):
        turn = next(turn for turn in plan.turns if turn.kind == kind)
        answer = create(reader, bench_pods.pod(plan, turn), dry_run=True)
        shaped = podshape.is_shaped(answer.get("spec") or {})
        if kind == "warm" and not shaped:
            _not_prepared(reader, answer, items)
        if kind == "cold" and shaped:
            raise errors.InputError(
                f"a pod of {plan.workload} is prepared for a warm start although nothing on it "
                "asks for that, so no cold start can be measured",
                hint="measure warm ones alone, with --cold 0; a webhook of somebody else may add "
                f"{names.ANNOTATION_CHECKPOINT}",
            )


def create(reader: reading.Reader, pod: Object, *, dry_run: bool = False) -> Object:
    """Create a pod; a refusal is told in the server's words, for a quota refuses as a right does.

    Raises:
        ApiError: it was refused, or nobody answered.
    """
    from chrek.kube import workstation

    path = workstation.path(*reading.PODS, reader.namespace)
    try:
        return reader.cluster.create(path, pod, dry_run=dry_run)
    except errors.ApiError as err:
        if err.status in (403, 422):
            raise errors.ApiError(
                f"pod {pod['metadata']['name']} was refused: {err.message}",
                status=err.status,
                hint="a right, a quota or a policy is in the way; the message says which",
            ) from err
        raise reading.explained(err, "create", reading.PODS, reader.namespace) from err


def _not_prepared(reader: reading.Reader, answer: Object, items: list[Object]) -> None:
    annotations = answer["metadata"].get("annotations") or {}
    skipped = str(annotations.get(names.ANNOTATION_SKIPPED, ""))
    if skipped:
        reason, _, message = skipped.partition(": ")
        raise errors.UnsupportedError(
            f"chrek cannot manage such pods: {message or reason}",
            reason=reason,
            hint="see this Reason in the troubleshooting guide",
        )
    webhooks = reader.look(reading.WEBHOOKS, labels=reading.OURS)
    releases = None if webhooks is None else unmanaged.releases(webhooks)
    found = unmanaged.gaps(answer, items, releases)
    gap = found[0] if found else None
    if gap is None or (releases is not None and unmanaged.serving(releases, reader.namespace)):
        raise errors.InputError(
            "a pod that asks for a warm start is not prepared for one: chrek's webhook did not "
            "answer",
            hint=f"{cli.program()} doctor says what is wrong with it",
        )
    raise errors.InputError(
        f"a pod that asks for a warm start is not prepared for one: {gap.what}", hint=gap.command
    )
