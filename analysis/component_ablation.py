"""What each component of a method carries: every arm of an ablation against its reference, with verdicts."""

from sage_ray.analysis.components import main

if __name__ == "__main__":
    raise SystemExit(main())
