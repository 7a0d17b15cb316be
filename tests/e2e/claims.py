"""Which test runs which command of the pages.

A test takes what it types from the page, with `documented`, by the key that stands here.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class NotRun:
    """No test runs it."""

    why: str


RELEASE = "e2e/test_documented_release.py"
STANDALONE = "system/test_documented_standalone.py"
EXAMPLES = "cluster/test_examples.py"
UNIT = "unit/test_documented.py"

MEASURES = NotRun("measures for minutes; its arithmetic has tests, its results are in docs/bench")
OPTION = NotRun("names an option; that there is one is tested")
FETCHES = NotRun("resolves packages anew, which asks a package index")

CLAIMS: dict[str, str | NotRun] = {
    # README and the chart's page: install.
    "scripts/build": NotRun("what the cluster of these tests runs is built by it"),
    "for image in chrek chrek-init; do*": f"{RELEASE}::test_pushing_images",
    "helm install chrek charts/chrek*": f"{RELEASE}::test_what_an_installation_makes",
    "helm test chrek --namespace my-team": f"{RELEASE}::test_helm_test",
    "helm test chrek --namespace my-team --logs": "e2e/test_helm.py::test_helm_test_passes",
    "pipx install .": NotRun("installs what every test has installed, for a person"),
    "pip install .": NotRun("installs what every test has installed"),
    "chrek doctor --namespace my-team": f"{RELEASE}::test_doctor",
    "helm template chrek charts/chrek --namespace my-team --values my-values.yaml*": (
        f"{RELEASE}::test_before_an_installation"
    ),
    "helm upgrade chrek charts/chrek --namespace my-team --values my-values.yaml": (
        f"{RELEASE}::test_an_upgrade"
    ),
    "helm uninstall chrek --namespace my-team": f"{RELEASE}::test_an_uninstallation",
    "kubectl delete dynamocheckpoints --all --namespace my-team": (
        f"{RELEASE}::test_an_uninstallation"
    ),
    "kubectl delete pvc chrek-pvc --namespace my-team": f"{RELEASE}::test_an_uninstallation",
    "kubectl delete crd*": "cluster/test_documented_crds.py::test_giving_the_crds_up",
    "kubectl label namespace my-team*": f"{RELEASE}::test_the_label_of_the_namespace",
    "charts/chrek/README.md#who-may-use-it": f"{RELEASE}::test_a_right_for_the_time_of_an_import",
    "kubectl auth can-i": NotRun("without what is asked about"),
    "kubectl describe pod": NotRun("of pods that a table has listed"),
    "kubectl delete namespace": NotRun("what not to begin with"),
    "kubectl logs deployment/<fullname>-operator": f"{RELEASE}::test_a_command_within_the_text",
    "kubectl logs job/<fullname>-pre-install": (
        "e2e/test_broken.py::test_the_word_of_a_hook_is_left_where_it_can_be_found"
    ),
    # Use.
    "kubectl get dckpt -n my-team": f"{RELEASE}::test_the_columns_of_checkpoints",
    "chrek explain deployment/my-llm --namespace my-team": f"{RELEASE}::test_explain",
    "chrek explain POD": f"{RELEASE}::test_a_command_within_the_text",
    "chrek show CHECKPOINT": f"{RELEASE}::test_a_command_within_the_text",
    "chrek show NAME --timeline": f"{RELEASE}::test_a_command_within_the_text",
    "chrek show --timeline": OPTION,
    "chrek diff POD CHECKPOINT": f"{RELEASE}::test_a_command_within_the_text",
    "chrek diff POD 5941a4cb3c363457": f"{RELEASE}::test_a_command_within_the_text",
    "chrek retry CHECKPOINT": f"{RELEASE}::test_another_try",
    "chrek retry NAME": f"{RELEASE}::test_another_try",
    'kubectl annotate dckpt NAME chrek.nvidia.com/retry="$(date)" --overwrite': (
        f"{RELEASE}::test_another_try"
    ),
    "chrek verify STORE HASH": f"{RELEASE}::test_moving_checkpoints",
    "chrek bench deployment/NAME": "e2e/test_cli_bench.py::test_a_deployment",
    "docs/guides/bench.md#measure-it-chrek-bench": "e2e/test_cli_bench.py::test_a_deployment",
    "chrek bench pod/NAME": NotRun("the same, of the template of a pod, which has unit tests"),
    "kubectl delete pods -n my-team -l chrek.nvidia.com/bench": (
        "e2e/test_cli_bench.py::test_a_deployment"
    ),
    "chrek checkpoint deployment/NAME --model … --backend vllm": (
        "e2e/test_cli_checkpoint.py::test_a_running_deployment_starts_warm_from_then_on"
    ),
    "chrek checkpoint deployment/NAME": NotRun("the same, without what it asks for by name"),
    "docs/guides/deployments.md#without-touching-the-workload": (
        "e2e/test_cli_checkpoint.py::test_a_running_deployment_starts_warm_from_then_on"
    ),
    "chrek hash FILE": f"{UNIT}::test_the_hash_of_a_file",
    "source <(chrek completion bash)": f"{UNIT}::test_completion_of_a_shell",
    "chrek COMMAND --help": f"{UNIT}::test_the_help_of_a_command",
    "chrek bench --help": NotRun("one of these"),
    "kubectl get dynamocheckpoints": f"{RELEASE}::test_a_command_within_the_text",
    "kubectl get dynamographdeployments": f"{RELEASE}::test_a_command_within_the_text",
    "kubectl get dckpt 5941a4cb3c363457 -n my-team": f"{RELEASE}::test_the_columns_of_checkpoints",
    "kubectl describe dckpt NAME -n my-team": f"{RELEASE}::test_a_command_within_the_text",
    "kubectl get jobs -l nvidia.com/chrek-is-checkpoint-source=true -n my-team": (
        f"{RELEASE}::test_a_command_within_the_text"
    ),
    "kubectl logs job/checkpoint-HASH -n my-team": f"{RELEASE}::test_a_command_within_the_text",
    "kubectl logs job/checkpoint-<hash>": f"{RELEASE}::test_a_command_within_the_text",
    "kubectl logs daemonset/chrek-agent -n my-team": f"{RELEASE}::test_a_command_within_the_text",
    "chrek doctor -n my-team": f"{RELEASE}::test_a_command_within_the_text",
    'kubectl logs POD -n my-team | grep "Falling back to cold start"': (
        f"{RELEASE}::test_a_command_within_the_text"
    ),
    "kubectl exec AGENT_POD -n my-team -- ls -la /checkpoints/": (
        f"{RELEASE}::test_a_command_within_the_text"
    ),
    "kubectl get pods": f"{RELEASE}::test_a_command_within_the_text",
    "kubectl logs --previous": OPTION,
    # Stores.
    "kubectl create secret*": f"{RELEASE}::test_secrets_and_an_authority",
    "kubectl create configmap my-ca --from-file=ca.crt": (
        f"{RELEASE}::test_secrets_and_an_authority"
    ),
    "kubectl annotate dckpt NAME chrek.nvidia.com/prewarm=true": (
        "e2e/test_remote_stores.py::test_what_is_marked_is_fetched_ahead"
    ),
    "kubectl exec --namespace my-team ds/chrek-agent --container agent*": (
        "e2e/test_remote_stores.py::test_the_store_gets_another_key"
    ),
    "chrek prune --rekey": OPTION,
    "chrek prune --dry-run": f"{RELEASE}::test_a_command_within_the_text",
    "chrek prune --dry-run HASH": f"{RELEASE}::test_a_command_within_the_text",
    "docs/guides/stores.md#moving-checkpoints": f"{RELEASE}::test_moving_checkpoints",
    "chrek copy /mnt/checkpoints s3://… --all": f"{RELEASE}::test_moving_checkpoints",
    "chrek import … --checkpoint NAME": NotRun("the end of a longer one, which is run"),
    "chrek import --checkpoint": OPTION,
    # Whoever looks after it.
    "docs/gitops.md#argo-cd": f"{RELEASE}::test_argo_cd",
    "docs/report.md#the-report-chrek-report": f"{RELEASE}::test_reports",
    "docs/runbooks.md#chrekrestoresfailing": f"{RELEASE}::test_a_section_of_the_runbooks",
    "docs/runbooks.md#chrekcolddespiteready": f"{RELEASE}::test_a_section_of_the_runbooks",
    "docs/runbooks.md#chrekstorenearlyfull": f"{RELEASE}::test_a_section_of_the_runbooks",
    "docs/runbooks.md#chrekstorefailing": f"{RELEASE}::test_a_section_of_the_runbooks",
    "docs/runbooks.md#chrekcheckpointsuspect": f"{RELEASE}::test_a_section_of_the_runbooks",
    "docs/runbooks.md#chrekagentmissing": f"{RELEASE}::test_a_section_of_the_runbooks",
    "docs/runbooks.md#chrekagentnotready": f"{RELEASE}::test_a_section_of_the_runbooks",
    "docs/runbooks.md#chrekpreflightfailed": f"{RELEASE}::test_a_section_of_the_runbooks",
    "docs/runbooks.md#chrekoperatorwithoutleader": f"{RELEASE}::test_a_section_of_the_runbooks",
    # One machine.
    "docs/standalone.md#install": NotRun("installs into a machine what every test has installed"),
    "docs/standalone.md#five-minutes": f"{STANDALONE}::test_five_minutes",
    "chrek run [--name N]*": f"{STANDALONE}::test_the_table_of_commands",
    "chrek dump N": f"{STANDALONE}::test_the_table_of_commands",
    "chrek restore N": f"{STANDALONE}::test_the_table_of_commands",
    # Examples.
    "kubectl apply -n my-team -f examples/*": f"{EXAMPLES}::test_the_command_of_a_file_is_taken",
    "helm upgrade --install chrek charts/chrek -n my-team -f examples/*": (
        f"{EXAMPLES}::test_the_command_of_values_is_taken"
    ),
    "scripts/build example": NotRun("what the cluster of these tests runs is built by it"),
    # Whoever changes chrek.
    "scripts/demo": NotRun("ten minutes; what it does are e2e/test_example.py and its own tables"),
    "scripts/test": NotRun("runs all tests, this one too"),
    "scripts/test --fast": NotRun("runs these tests"),
    "scripts/test -k name": NotRun("runs these tests"),
    "scripts/vllm-check": NotRun("installs 6 GB"),
    "scripts/build released": (
        "e2e/test_upgrade.py::test_an_upgrade_keeps_checkpoints_and_brings_its_crds"
    ),
    "scripts/gpu-check --output": OPTION,
    "docs/gpu.md#check-a-machine": NotRun(
        "makes a bundle with docker, and wants a GPU; gpu/test_gpu_check.py has both parts"
    ),
    "scripts/bench*": MEASURES,
    "make -C src/c": f"{UNIT}::test_make",
    "cd tests && python -m fuzz TARGET --seconds 60": f"{UNIT}::test_fuzzing",
    "CONTRIBUTING.md#dependencies": FETCHES,
    "uv pip compile*": FETCHES,
}
"""Key, as in `documented.covers` -> test below `tests`, or why there is none."""
