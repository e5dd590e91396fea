"""Where pictures come from: what a person types becomes a pipeline, and a pipeline frames."""
