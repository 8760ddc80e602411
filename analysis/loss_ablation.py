"""Segmentation losses compared with the hybrid loss, and the paper's gain over the Dice loss beside ours."""

from sage_ray.analysis.loss_arms import main

if __name__ == "__main__":
    raise SystemExit(main())
