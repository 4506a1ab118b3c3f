"""The Triton models that are code. ``aquatint export`` copies them into a repository beside the exported components."""
