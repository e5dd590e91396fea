"""Sources: frames of cameras, files and streams, from GStreamer pipelines."""
