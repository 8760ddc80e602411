"""What a study asks: search spaces, ablation designs, their dimensions and objective; no Ray, no Optuna."""
