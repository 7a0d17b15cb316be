"""The main job on a real cluster: one checkpoint, pods restored from it, everything that can fail.

`scripts/test` runs these after `scripts/build` and with the cluster of `scripts/cluster` up; both
are started when they are missing. Nothing is faked: faults are injected into the running cluster
by editing files of the store, by signals, and by mounts in the agent's container.
"""
