"""Final trainings on the locked test: one row per seed, and the mean over all with its interval."""

from sage_ray.analysis.final_tests import main

if __name__ == "__main__":
    raise SystemExit(main())
