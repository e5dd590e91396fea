"""Engines: the passport, the head, and the backends that execute an engine."""
