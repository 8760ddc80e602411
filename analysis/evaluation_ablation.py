"""How much of a score is the way of scoring: arms with different definitions side by side, never in one column."""

from sage_ray.analysis.scorings import main

if __name__ == "__main__":
    raise SystemExit(main())
