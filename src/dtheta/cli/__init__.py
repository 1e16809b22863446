"""The command line: ``dtheta VERB ...``, one short file a verb. Nothing here is imported by the library."""
