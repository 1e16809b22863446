"""The algebra: changes, deltas, fingerprints, files. Imports nothing of ours but the errors."""
