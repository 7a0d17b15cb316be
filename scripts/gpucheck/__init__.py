"""What `scripts/gpu-check` does: captures and restores of GPU memory, without a cluster.

It runs from a bundle that brings a Python, chrek's packages and CRIU along, so that the machine
needs an NVIDIA driver and nothing else.
"""
