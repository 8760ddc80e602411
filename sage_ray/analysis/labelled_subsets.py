"""Runs that were trained on labelled subsets: which of them were scored on the same images, and what repeats an arm."""

from __future__ import annotations

import pandas as pd

LABELS, SUBSET = "data.split.labels", "data.split.subset"
HELD_OUT = (
    "data.split.test", "data.split.validation", "data.split.folds", "data.split.fold", "data.split.seed",
    "data.split.group",
)  # fmt: skip
"""The settings that say, with the data, which images are tested and validated."""
READ = (LABELS, SUBSET, *HELD_OUT)


def with_subsets(runs: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """Runs of a study with columns `subset` (0 without labelled subsets) and `scored_split`.

    Runs with equal `scored_split` (and data and fold) were validated and tested on the same images. That is their
    split's identity, which covers the training images too; but where labels are held back in the study, training images
    alone differ, and the settings of the held-out parts take its place.

    Args:
        runs: rows of `Tidy.runs`.
        settings: of `Tidy.settings`, the paths in READ; runs of earlier releases lack some.
    """
    known = settings.reindex(index=runs["run_id"], columns=list(READ))
    labels = pd.to_numeric(known[LABELS], errors="coerce").fillna(0)
    subset = pd.to_numeric(known[SUBSET], errors="coerce").fillna(0).astype(int)
    held_out = ["; ".join(map(str, row)) for row in known[list(HELD_OUT)].to_numpy(object)]
    return runs.assign(
        subset=subset.to_numpy(), scored_split=held_out if (labels > 0).any() else runs["split_id"].to_numpy()
    )


def several_subsets(runs: pd.DataFrame) -> bool:
    """Whether the arms of a study were trained on several subsets of labelled images."""
    return "subset" in runs and runs["subset"].nunique() > 1


def subsets_of(runs: pd.DataFrame) -> str:
    """Such as "3 subsets", which repeat the arms of a study; "" where seeds do."""
    return f"{runs['subset'].nunique()} subsets" if several_subsets(runs) else ""


def by_subset(frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Scores with one `seed` per subset of labelled images, their mean over seeds; unchanged if there is one subset.

    Runs of one subset share their training images and are no independent repeats of an arm; subsets are.

    Args:
        frame: columns arm, seed (a run's `unit`), value, and of images, image and group.
        runs: with `unit` and `subset`.
    """
    if not several_subsets(runs):
        return frame
    names = dict(zip(runs["unit"], runs["subset"].map("subset {}".format), strict=True))
    keys = [column for column in frame.columns if column != "value"]
    return frame.assign(seed=frame["seed"].map(names)).groupby(keys, sort=False)["value"].mean().reset_index()
