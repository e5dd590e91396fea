"""The run loop: frames from sources through the engine to the outputs."""
