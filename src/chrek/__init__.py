"""chrek: checkpoint/restore for LLM inference pods on Kubernetes."""

__version__ = "0.1.0"
