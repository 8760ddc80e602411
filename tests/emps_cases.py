"""What is known of the real micrographs that tests may meet."""

from __future__ import annotations

from typing import NamedTuple


class EmpsFacts(NamedTuple):
    """What is known of a part of the EMPS set: its pairs, its objects, the mean Dice of Otsu's threshold on it."""

    pairs: int
    objects: int
    otsu_dice: float


# By data fingerprint: the dozen of the repository, and the first 140 names of the published training split.
EMPS_FACTS = {
    "716d7ae672ea81c7": EmpsFacts(12, 135, 0.596),
    "371c403c839736f4": EmpsFacts(140, 3424, 0.669),
}
