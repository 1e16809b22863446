"""Probing: where a network keeps a concept, unlearning it, and the proof in the parameters of what is gone."""
