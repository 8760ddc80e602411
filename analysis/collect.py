"""All recorded runs of a home as one tidy table, HOME/tables/tidy.parquet, with one row per value."""

from sage_ray.analysis.collection import main

if __name__ == "__main__":
    raise SystemExit(main())
