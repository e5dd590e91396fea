"""Engines: the passport, the heads, and the backends that execute an engine."""
