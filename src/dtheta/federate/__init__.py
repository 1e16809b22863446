"""Federated training: deltas that travel between parties, over classical and quantum channels."""
