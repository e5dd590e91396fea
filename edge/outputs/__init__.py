"""Outputs: what is done with the results of a run."""
