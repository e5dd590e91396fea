"""The build face: a checkpoint becomes an engine, on any PC."""
