"""What is written down about a checkpoint and a model repository. Knows nothing about exporting or serving them."""
