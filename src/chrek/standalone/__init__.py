"""Run, dump and restore one program of a machine without Kubernetes.

`chrek run` makes a container of the machine's own root file system and plays the agent to its
chrek-init; captures and restores are those of the cluster, and so are artifacts and stores.
"""
