"""Unlearning: losses and edits that take a concept out of a network, each a delta in the end."""
