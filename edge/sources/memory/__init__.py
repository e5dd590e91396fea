"""Surfaces in GStreamer's buffers, which the CPU or the GPU reads without a copy."""
