"""The text-to-image fronts inside Triton. Only importable inside a Triton Python backend process."""
