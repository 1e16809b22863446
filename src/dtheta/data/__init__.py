"""Real data: text tasks (tasks), one's own tables (table), images, batches in a keyed order, and their sources.

Nothing is imported here, so that ``python -m dtheta.data.fetch`` runs without loading torch.
"""
