"""What is on disk about runs: the home, run folders, provenance, the mirror in MLflow, and models by name."""
