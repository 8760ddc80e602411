"""Which part of the data the arms of a study are compared on."""

from __future__ import annotations

from sage_ray.analysis.arms import ArmRuns
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError
from sage_ray.record.run_folder import BASELINE

MASKS_OF_OTHERS = (
    "Images generated from the masks of real images; if the generator has learned from any of these, the definition of "
    "the score says so."
)


def choose_part(tidy: Tidy, runs: ArmRuns, wanted: str | None) -> tuple[str, str]:
    """The part of the data that arms are compared on, and a sentence on it.

    It is the locked test part if every run has been scored on it, else validation; generated images only if `wanted`.

    Raises:
        UserError: the test part or generated images are asked for, and a run was not scored on them.
    """
    if wanted == "generated":
        return _generated_part(tidy, runs)
    rows = tidy.rows(kind="image", studies=[runs.facts.name], part="test", columns=["run_id", "checkpoint"])
    scored = set(rows.loc[rows["checkpoint"] != BASELINE, "run_id"])
    unread = sorted(set(runs.runs["run_id"]) - scored)
    if not unread and wanted != "val":
        return "test", "Locked test images, which no training and no choice has seen."
    if wanted == "test":
        mend = f"`sage-ray ablate` with `test: true` reads it ({len(unread)} runs of {runs.facts.name} were not scored)"
        raise UserError("run was not scored on the locked test part", unread[0], mend)
    why = "" if wanted == "val" else f" The locked test part was not read by {len(unread)} of {len(runs.runs)} runs."
    return "val", f"Validation images, which also chose each run's epoch: scores flatter.{why}"


def _generated_part(tidy: Tidy, runs: ArmRuns) -> tuple[str, str]:
    rows = tidy.rows(kind="image", studies=[runs.facts.name], part="generated", columns=["run_id"])
    unread = sorted(set(runs.runs["run_id"]) - set(rows["run_id"]))
    if unread:
        what = f"generated images of {len(unread)} of {len(runs.runs)} runs were not scored"
        mend = f"`sage-ray fidelity {unread[0]}`, or leave its arm out with --without"
        raise UserError(what, f"study {runs.facts.name}", mend)
    return "generated", MASKS_OF_OTHERS
