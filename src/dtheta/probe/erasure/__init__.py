"""The erasure report: what a delta took out of a network, in its answers, under attack, and in its parameters."""
