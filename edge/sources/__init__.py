"""Sources: a URI becomes a GStreamer pipeline, a pipeline yields frames."""
