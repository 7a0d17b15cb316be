"""A Kubernetes cluster of several nodes on one Linux machine, without a container engine.

The control plane runs as plain processes of the host; each node is a set of
namespaces of its own with containerd, kubelet, and kube-proxy in it. The package
needs nothing but the standard library.
"""
