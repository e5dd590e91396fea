"""Live parity: frames of a run held against the reference."""
