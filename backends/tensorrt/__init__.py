"""A Triton python-based backend that runs TensorRT engines where Triton's own backend is missing."""
