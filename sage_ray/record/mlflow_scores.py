"""What MLflow is told of a locked test: means over its images, once the test has been read, and not before."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES, PARTICLE_SCORES, POOLED
from sage_ray.metrics.overlap import PixelCounts, dice
from sage_ray.record.run_folder import BASELINE, PER_IMAGE_SCHEMA, RunFolder
from sage_ray.record.run_record import RunRecord


def locked_scores(folder: RunFolder, record: RunRecord) -> dict[str, float]:
    """`test/dice` and its like of a run's selected weights; empty while nobody has read the test with them.

    Means over images, as `evaluate` shows them: of particles over the images that have the score, pooled pixel F1 from
    the counts of all images together.
    """
    if not record.test_reads:
        return {}
    table = locked_rows(folder)
    values: dict[str, list[float]] = defaultdict(list)
    for row in table.select(["score", "value"]).to_pylist():
        if math.isfinite(row["value"]):
            values[row["score"]].append(row["value"])
    found = {name: float(np.mean(values[name])) for name in (*IMAGE_SCORES, *PARTICLE_SCORES) if values[name]}
    if all(values[name] for name in COUNTS):
        found[POOLED] = dice(PixelCounts(*(int(sum(values[name])) for name in COUNTS)))
    return {f"test/{name}": value for name, value in found.items()}


def locked_rows(folder: RunFolder) -> pa.Table:
    """Rows of a run's own weights on its locked test; none where the file is not there, or damaged."""
    try:
        table = folder.per_image_table()
    except (OSError, pa.ArrowException):
        return PER_IMAGE_SCHEMA.empty_table()
    mine = pc.and_(pc.equal(table["part"], "test"), pc.not_equal(table["checkpoint"], BASELINE))
    return table.filter(mine)
