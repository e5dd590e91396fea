"""The audit: sampled frames compared with the FP32 reference during a run."""
