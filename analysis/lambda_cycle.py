"""How a score answers to the weight of the cycle, `adversarial.lambda_cycle`, in a study that varies it."""

from sage_ray.analysis.cycle_response import main

if __name__ == "__main__":
    raise SystemExit(main())
