"""GStreamer's buffers as pictures that the CPU or the GPU reads where they lie."""
