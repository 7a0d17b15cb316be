"""What scripts/demo, scripts/bench and tests/e2e share: a live cluster with chrek on it."""
