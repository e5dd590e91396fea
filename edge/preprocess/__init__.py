"""What the checkpoint's image processor does, in exact arithmetic."""
