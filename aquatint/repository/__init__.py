"""The descriptions of checkpoints and model repositories. Knows nothing about exporting or serving them."""
