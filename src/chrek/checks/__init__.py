"""Whether a cluster can hold a release and whether a release works: named checks, each with a hint.

Hooks run them around an installation, agents those of their own node, `chrek doctor` all of them
from a workstation.
"""
