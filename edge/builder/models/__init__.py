"""What a checkpoint is, and what torch makes of it; only here are Hugging Face and timm known."""
