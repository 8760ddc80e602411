"""How much a best epoch flatters: best epoch against plateau, on recorded runs or on any log of scores by epoch."""

from sage_ray.analysis.selection import main

if __name__ == "__main__":
    raise SystemExit(main())
