"""Where attention gates look: overlays early, middle and late in training, and the share of attention at boundaries."""

from sage_ray.analysis.gate_maps import main

if __name__ == "__main__":
    raise SystemExit(main())
