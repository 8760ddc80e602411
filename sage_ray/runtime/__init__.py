"""Running an experiment: the home, the record on disk, the launch (inline or Ray Train), and the mirror in MLflow."""
