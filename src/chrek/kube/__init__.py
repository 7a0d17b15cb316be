"""The Kubernetes API: a lean client for long-running programs, the official one for the rest.

`chrek.kube.api` serves the agent and the operator and does not import kubernetes.
"""
