"""How a score answers to the epochs of each phase, in a study that varies them, beside what they cost."""

from sage_ray.analysis.budget_response import main

if __name__ == "__main__":
    raise SystemExit(main())
