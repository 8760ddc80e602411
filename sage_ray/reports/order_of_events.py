"""Why each final training was made, and whether that was decided before the locked test was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage_ray.evaluation import ledger
from sage_ray.reports.evidence import FinalEvidence, StudyEvidence
from sage_ray.reports.page_parts import Bullets, Paragraph, Part
from sage_ray.reports.study_words import score_text
from sage_ray.reports.trial_tables import ENDINGS, params_text, trial_order
from sage_ray.statistics.verdict_sentences import counted, listed, upper_first

Row = Mapping[str, Any]
RULE_KNOWS = "The rule looks at validation scores alone: it cannot know the locked test."


def why_tested(evidence: StudyEvidence) -> list[Part]:
    """For each final training what it is of, why it was made, and what was known of the test when it was declared."""
    if not evidence.finals:
        return []
    readings = _readings(evidence)
    names = {run_id: final.called for final in evidence.finals for run_id in final.plan.run_ids}
    lines = [
        f"{upper_first(final.called)}: {_why(evidence, final)}{_settings(evidence, final)} "
        f"{_when(final, readings, names)} {_seeds(final)}"
        for final in evidence.finals
    ]
    return [Paragraph("Why these were trained for the test, and when that was decided:"), Bullets(lines)]


def asked_after_reading(evidence: StudyEvidence) -> str:
    """The final trainings that somebody asked for by number when the test had been read for another one; "" if none."""
    readings = _readings(evidence)
    late = [
        final.called
        for final in evidence.finals
        if final.plan.choice not in ("best", "base") and final.plan.created and _before(final, readings)
    ]
    return listed(late) if late else ""


def _readings(evidence: StudyEvidence) -> list[Row]:
    """What the home's ledger has of the test sets of the study's final trainings."""
    rows = ledger.read(evidence.home.path / ledger.TEST_READS)
    own = {record.run_id for final in evidence.finals for record in final.records}
    test_sets = {row.get("test_set") for row in rows if row.get("reader") in own}
    return [row for row in rows if row.get("test_set") in test_sets]


def _before(final: FinalEvidence, readings: Sequence[Row]) -> list[Row]:
    """Readings by others from before the final training was declared."""
    others = [row for row in readings if row.get("reader") not in final.plan.run_ids]
    return [row for row in others if str(row.get("when", "")) < final.plan.created]


def _why(evidence: StudyEvidence, final: FinalEvidence) -> str:
    choice = final.plan.choice
    if choice == "best":
        return f"what the rule of {'the search' if evidence.is_search else '`best`'} proposes."
    if choice == "base":
        return "the reference that the others are held against."
    return "asked for by its number, not proposed by the rule."


def _settings(evidence: StudyEvidence, final: FinalEvidence) -> str:
    """Its settings, and where its trial stood in the search."""
    trial = next((each for each in evidence.status.trials if each.number == final.plan.trial), None)
    if trial is None or not evidence.is_search:
        return ""
    text = f" Settings: {params_text(trial.params)}."
    complete = [each for each in trial_order(evidence.status) if each.state == "COMPLETE"]
    if trial not in complete:
        return text
    place, top = complete.index(trial) + 1, complete[0]
    text += f" In the search it stood {_ordinal(place)} of {len(complete)} with {score_text(trial.value)}"
    return text + ("." if place == 1 else f"; the first is trial {top.number} with {score_text(top.value)}.")


def _ordinal(place: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10 if place % 100 not in (11, 12, 13) else 0, "th")
    return f"{place}{ending}"


def _seeds(final: FinalEvidence) -> str:
    states = ", ".join(f"seed {record.seed} {ENDINGS.get(record.state, record.state)}" for record in final.records)
    return f"{upper_first(states) or 'Not started'} (`{final.plan.final_id}`)."


def _when(final: FinalEvidence, readings: Sequence[Row], names: Mapping[str, str]) -> str:
    """When it was declared, and which readings of the test came before: as the ledger of this home has it."""
    plan = final.plan
    if not plan.created:
        return "When it was declared is not recorded."
    said = f"Declared {_moment(plan.created)}"
    own = sorted(str(row["when"]) for row in readings if row.get("reader") in plan.run_ids and row.get("when"))
    before = _before(final, readings)
    if not own and not before:
        return f"{said}."
    if not before:
        first = f" (it was first read {_moment(own[0])})" if own else ""
        told = f"{said}, before any model of this home (its folder of studies) had been scored on this test{first}"
        return f"{told}: no score on it had a part in that."
    readers = listed(list(dict.fromkeys(names.get(str(row.get("reader")), "other models") for row in before)))
    text = f"{said}, after {counted(len(before), 'reading')} of this test (by {readers})."
    if plan.choice == "best":
        return f"{text} {RULE_KNOWS}"
    if plan.choice == "base":
        return f"{text} The base is always the same: no test score chose it."
    return f"{text} Whoever asked for it may have known those scores."


def _moment(stamp: str) -> str:
    """A stored time as a person writes it, such as "2026-11-30 16:10:01 UTC"."""
    return f"{stamp[:10]} {stamp[11:19]} UTC" if len(stamp) >= 19 else stamp
