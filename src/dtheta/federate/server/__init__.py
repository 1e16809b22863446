"""The server of a federation: how answers are checked, joined to one, and taken as a step."""
