"""Quantum models, encodings and gradients, simulated exactly in torch."""
