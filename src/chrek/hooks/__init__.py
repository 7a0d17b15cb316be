"""What Helm runs: checks before an installation, CRDs before an upgrade, a wait afterwards, a test.

Each program is a module with `main()`; the files in the repository's `hooks/` only call it.
"""
