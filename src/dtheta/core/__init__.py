"""The algebra: changes, deltas, fingerprints, files. Imports torch, numpy, safetensors, xxhash and nothing of ours but errors."""
