"""Numbers of bytes as Kubernetes writes quantities."""


def human(size: int) -> str:
    """A number of bytes for a person, such as 1.3Gi."""
    amount = float(size)
    for unit in ("", "Ki", "Mi", "Gi"):
        if amount < 1024:
            return f"{amount:.1f}{unit}" if unit else str(size)
        amount /= 1024
    return f"{amount:.1f}Ti"
