"""The paper's Table 1 beside ours: best epoch, plateau and locked test, parameters, cost and verdicts."""

from sage_ray.analysis.baselines import main

if __name__ == "__main__":
    raise SystemExit(main())
