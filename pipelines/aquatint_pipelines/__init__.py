"""Data, training and publishing steps as plain functions; Kubeflow components only call them."""
