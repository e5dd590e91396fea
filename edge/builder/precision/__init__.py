"""What makes a graph small and fast and keeps it right: FP16, INT8, FP8, and their ranges."""
