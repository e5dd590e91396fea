"""Outputs of a run: JSON lines, recordings, snapshots, telemetry, live page and audit."""
