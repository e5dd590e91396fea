"""The build pipeline: a checkpoint becomes an engine, on any PC."""
