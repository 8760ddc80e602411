"""Does a generated image show its mask: fidelity beside its ceiling, null and collusion, and distances of sets."""

from sage_ray.analysis.fidelity_table import main

if __name__ == "__main__":
    raise SystemExit(main())
