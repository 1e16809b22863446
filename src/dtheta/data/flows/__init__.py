"""Flows: chaotic dynamics as truths to forecast, small enough for a laptop."""
