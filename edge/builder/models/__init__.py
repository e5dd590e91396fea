"""Checkpoints and their torch models; only this package knows Hugging Face and timm."""
