"""The node agent: answers chrek-init, dumps checkpoint jobs, restores workers."""
