"""The run loop: frames from sources through an engine to outputs."""
