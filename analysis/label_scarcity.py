"""How many labels a method saves: a curve per method over the number of labelled images, and labels saved."""

from sage_ray.analysis.scarcity import main

if __name__ == "__main__":
    raise SystemExit(main())
