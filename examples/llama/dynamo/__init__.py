"""So that `python3 -m dynamo.vllm`, the command of the guides, finds the example server."""
