"""Precision: FP16, INT8 and FP8 forms of a graph, and the activation ranges that they need."""
