"""Validation scores by epoch: median over seeds with the range of the seeds, one panel per arm, phases marked."""

from sage_ray.analysis.curve_panels import main

if __name__ == "__main__":
    raise SystemExit(main())
