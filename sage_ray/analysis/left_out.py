"""Arms of a study that are left out of a comparison, and what is said of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from sage_ray.analysis.study_facts import StudyFacts
from sage_ray.analysis.tidy import Tidy
from sage_ray.system_rules import NETWORKS

NO_SEGMENTER = "no segmenter whose masks could be scored"


def arms_without_masks(tidy: Tidy, facts: StudyFacts, runs: pd.DataFrame, without: Collection[str]) -> dict[str, str]:
    """The arms whose system has no segmenter, and so; {} where no other arm is there.

    Args:
        tidy: the table.
        facts: of the study.
        runs: of all its arms.
        without: arms that are left out anyway.
    """
    systems = tidy.settings([facts.name], ["adversarial.system"]).get("adversarial.system", pd.Series(dtype=object))
    bare = [run for run, system in systems.items() if "segmenter" not in NETWORKS.get(system, ("segmenter",))]
    arms = set(runs[runs["run_id"].isin(bare)]["arm"]) - set(without)
    return dict.fromkeys(sorted(arms), NO_SEGMENTER) if set(runs["arm"]) - arms else {}


def left_out(facts: StudyFacts, without: Collection[str], away: Mapping[str, str]) -> list[str]:
    """A sentence on arms that are left out on request, and one for each reason why others are."""
    lines = [f"left out on request: {', '.join(map(facts.called, without))}"] if without else []
    for why in dict.fromkeys(away.values()):
        arms = [facts.called(arm) for arm, reason in away.items() if reason == why and arm not in without]
        lines += [f"left out, as it has {why}: {', '.join(arms)}"] * bool(arms)
    return lines
