"""chrek: checkpoint/restore for LLM inference pods on Kubernetes."""

__version__ = "0.2.0"
