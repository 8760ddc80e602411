"""The data set that MLflow shows beside a run: one entry for each part of the split, with the number of its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from sage_ray.config import ExperimentConfig
from sage_ray.record.run_record import RunRecord

CONTEXTS = {"train": "training", "validation": "validation", "test": "test", "unlabelled": "unlabelled"}
"""What MLflow calls the parts of a split."""
DRAWN = "synthetic://"


@dataclass(frozen=True)
class DataInput:
    """One part of a run's data set.

    `name` has the number of its images: MLflow keeps one entry for each name and digest, whichever run told it first,
    and the same images may be split otherwise in another run.
    """

    name: str
    digest: str
    source_type: str
    source: str
    context: str
    images: int


def data_inputs(config: ExperimentConfig, record: RunRecord) -> tuple[DataInput, ...]:
    """The data set of a run, part by part; nothing until the run has looked at its data."""
    if record.data_fingerprint is None:
        return ()
    path = config.data.path
    title = data_title(path)
    kind = "sage_ray" if path.startswith(DRAWN) else "local"
    digest = record.data_fingerprint
    if not record.parts:  # of an earlier release, which did not note them
        return (DataInput(title, digest, kind, path, "training", 0),)
    return tuple(
        DataInput(f"{title}, {count} {context} images", digest, kind, path, context, count)
        for part, context in CONTEXTS.items()
        if (count := record.parts.get(part, 0))
    )


def data_title(path: str) -> str:
    """The name of a data set: that of its folder, or the pattern that is drawn."""
    if path.startswith(DRAWN):
        return f"drawn {path.removeprefix(DRAWN).partition('?')[0]}"
    return PurePath(path).name or path
