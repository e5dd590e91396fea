"""Recordings, snapshots on rules, and label smoothing."""
