"""The training step in TensorFlow: tape, accumulation, update."""
