"""Files: atomic writes, TOML with line numbers, .npy arrays."""
