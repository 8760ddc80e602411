"""The page of a study: the answer first, then what it rests on, what it cost, and how to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sage_ray.figures.tested_finals import tested_finals
from sage_ray.metrics.definitions import label, name_of
from sage_ray.record.model_versions import MODEL_NAME
from sage_ray.reports.cost_and_origin import (
    cost_parts,
    hours_fact,
    origin_parts,
    repeat_parts,
    reused_epochs,
)
from sage_ray.reports.evidence import StudyEvidence
from sage_ray.reports.final_findings import FinalsFound, finals_found
from sage_ray.reports.generated_findings import judged_pairs
from sage_ray.reports.order_of_events import asked_after_reading, why_tested
from sage_ray.reports.page_parts import Chapter, Page, Paragraph, Part, Verdicts
from sage_ray.reports.scores_by_image import image_by_image, validation_by_image, weak_kind, whose_images
from sage_ray.reports.study_words import judged_by, score_text
from sage_ray.reports.trial_tables import ENDINGS, arm_grid, choice_parts, failures, params_text, space_grid, trial_grid
from sage_ray.statistics.verdict_sentences import Said, counted, signed, upper_first

if TYPE_CHECKING:
    from sage_ray.reports.arm_findings import ArmsFound

FEW_TRIALS = 20
"""Complete trials below which a search says little of its settings."""
HOW_TO_READ = (
    "How to read this. **Dice** tells how far the particles that the model marks agree with those that a person "
    "marked: 0 nothing in common, 1 the same. A **95 % interval** is the range of differences that fit the data; a "
    "difference is called better or worse only if its whole range lies on one side of zero, and open otherwise, which "
    "does not mean equal. A **seed** is one training from its own random start; the **locked test** are images that no "
    "training learns from and no rule chooses by."
)
OF_A_SEARCH = (
    " A **trial** is one choice of settings, trained and scored on **validation images**; the **untuned base** has the "
    "settings from which the search set out."
)
FOOT = "Made by `sage-ray report {name}`, sage_ray {version}. It loads nothing from outside. State {mark}."


def study_page(evidence: StudyEvidence) -> Page:
    """The page of a study, without the mark of its state.

    Raises:
        UserError: what its tables are made from is damaged.
    """
    finals = finals_found(tested_finals([final.plan for final in evidence.finals], evidence.home))
    return _search_page(evidence, finals) if evidence.is_search else _ablation_page(evidence, finals)


def _search_page(evidence: StudyEvidence, finals: FinalsFound) -> Page:
    said = [*finals.said, search_said(evidence, tested=bool(finals.said))]
    study = evidence.status
    few = study.done < FEW_TRIALS
    warning = f"{counted(study.done, 'complete trial')}: what the figures say of single settings is a hint at best."
    chosen = evidence.choice.trial if evidence.choice else None
    chapters = [
        Chapter(
            "found",
            "What was found",
            [
                Verdicts(said),
                *_cautions(evidence, finals),
                *_next(evidence, finals),
                Paragraph(HOW_TO_READ + OF_A_SEARCH, "note"),
            ],
        ),
        Chapter("tested", "On the locked test", _tested_parts(evidence, finals), ("finals",)),
        Chapter("chosen", "What was chosen, and why", choice_parts(evidence), ("forest",)),
        Chapter(
            "searched",
            "What was searched",
            [*space_grid(evidence), *([Paragraph(warning, "caution")] if few else [])],
            ("parallel", "slices", "importance", "history"),
        ),
        Chapter("trials", "All trials", [trial_grid(study, chosen), *failures(study)]),
        *_common(evidence),
    ]
    settings = len({path for trial in study.trials for path in trial.params})
    lead = f"A search over {counted(settings, 'setting')} in {counted(len(study.trials), 'trial')}, judged by "
    return _page(evidence, "Search", f"{lead}{judged_by(study)}.", chapters)


def _ablation_page(evidence: StudyEvidence, finals: FinalsFound) -> Page:
    found = _arms(evidence)
    said = [*finals.said, *found.said] or [_nothing_said(found.reason)]
    why = [Paragraph(f"No verdicts on the arms: {found.reason}.", "caution")] if found.reason and finals.said else []
    first = [Verdicts(said), *why, *_cautions(evidence, finals), Paragraph(HOW_TO_READ, "note")]
    tested = [*found.parts, *(_tested_parts(evidence, finals) if evidence.finals else [])]
    chapters = [
        Chapter("found", "What was found", first),
        Chapter("tested", "The arms beside each other", tested, ("forest", "finals")),
        Chapter("compared", "What was compared", [*arm_grid(evidence), *failures(evidence.status)]),
        Chapter("chosen", "What would be taken as the best", choice_parts(evidence)),
        *_common(evidence),
    ]
    lead = "An ablation: parts of the method are taken away or changed, one arm each, judged by "
    return _page(evidence, "Ablation", f"{lead}{judged_by(evidence.status)}.", chapters)


def _common(evidence: StudyEvidence) -> list[Chapter]:
    """The chapters that every study has."""
    pictures = "Worst, median and best image by Dice. Look at the worst first: it shows what to expect of hard images."
    return [
        Chapter("curves", "How training went", [], ("curves",)),
        Chapter(
            "examples",
            "What the model does with images",
            [*validation_by_image(evidence), Paragraph(pictures, of_figure="examples")],
            ("examples",),
        ),
        Chapter("generated", "Generated pairs", judged_pairs(evidence), ("generated",)),
        Chapter("particles", "Sizes of particles", [], ("particles",)),
        Chapter("cost", "What it cost", cost_parts(evidence), ("cost",)),
        Chapter("origin", "Where the numbers come from", origin_parts(evidence)),
        Chapter("repeat", "How to repeat it", repeat_parts(evidence)),
    ]


def _page(evidence: StudyEvidence, noun: str, lead: str, chapters: Sequence[Chapter]) -> Page:
    study = evidence.status
    finished = evidence.finished_records
    parts = next((record.parts for record in finished if record.parts), {})
    ended = [f"{study.done} of {study.target} complete"]
    ended += [f"{study.pruned} stopped early"] * bool(study.pruned) + [f"{study.failed} failed"] * bool(study.failed)
    reused, epochs = reused_epochs(evidence.records, evidence)
    computing = hours_fact(evidence.all_records)
    facts = {
        "images": ", ".join(f"{n} {name}" for name, n in parts.items() if n) or "not recorded",
        "trials" if evidence.is_search else "runs": ", ".join(ended),
        "seeds": seeds_fact(sorted({record.seed for record in finished})) + _final_seeds(evidence),
        "computing": f"{computing}, final trainings included" if evidence.finals else computing,
        f"reused in the {noun.lower()}": f"{reused} of {epochs} epochs" if reused else "nothing",
        "last change": max(record.updated for record in evidence.all_records)[:10],
    }
    trials = {trial.number: trial_hint(evidence, trial.number) for trial in study.trials}
    return Page(f"{noun} {study.study}", lead, chapters, facts, trials, FOOT)


def _final_seeds(evidence: StudyEvidence) -> str:
    seeds = {record.seed for final in evidence.finals for record in final.records if record.finished}
    return f"; final trainings {seeds_fact(sorted(seeds))}" if seeds else ""


def seeds_fact(seeds: Sequence[int]) -> str:
    """How many seeds, and which."""
    return f"{len(seeds)} (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"


def trial_hint(evidence: StudyEvidence, number: int) -> str:
    """What a pointer over a trial is told."""
    trial = next(each for each in evidence.status.trials if each.number == number)
    ended = "" if trial.state == "COMPLETE" else f", {ENDINGS.get(trial.state, 'running')}"
    arm = trial.params.get("arm")
    if arm is not None:
        return f"{arm}: {score_text(trial.value)}{ended}"
    return f"trial {number}: {score_text(trial.value)}{ended}; {params_text(trial.params)}".replace("`", "")


def search_said(evidence: StudyEvidence, *, tested: bool) -> Said:
    """What the search itself found, which is a proposal and no verdict."""
    choice, study = evidence.choice, evidence.status
    score = label(name_of(study.metric))
    if choice is None:
        return Said("proposed", f"The search has no best trial: {evidence.no_choice}.", "", "", ())
    base = evidence.base_trial
    headline = f"The search proposes trial {choice.trial}: {params_text(choice.params)}."
    if base is not None and base.number == choice.trial:
        told = "scored higher" if choice.top_trial == choice.trial else "was clearly better"
        headline = f"No trial {told} than the untuned base, so the search proposes the base itself."
    seeds = counted(len(choice.seed_values), "seed")
    numbers = f"{score} {choice.value:.3f} on validation images, {seeds}"
    if base is not None and base.number != choice.trial and base.value is not None:
        if base.state == "COMPLETE":
            numbers += f", {signed(choice.value - base.value)} to the untuned base ({base.value:.3f})"
        else:
            numbers += f"; the untuned base stood at {base.value:.3f} when it was stopped early, no final score"
    plain = f"Trial {choice.trial} was chosen by its score on the validation images, so that this score flatters it"
    ask = f"`sage-ray final {evidence.name}`"
    if base is None or base.number != choice.trial:
        ask += f" and `sage-ray final {evidence.name} --trial base`"
    ask += ", then this report again"
    fair = "; the fair scores are those of the final trainings on the locked test. They are of other images: see below"
    plain += f"{fair}." if tested else f". For a fair one run {ask}."
    beware = [weak] if (weak := weak_kind(evidence)) else []
    if choice.top_trial != choice.trial:
        beware.append(
            f"Trial {choice.top_trial} scored higher, by no more than one standard error; the one proposed is cheaper."
        )
    beware += [
        f"Trial {stopped.trial} stood higher ({score_text(stopped.value)}) when it was stopped early."
        for stopped in choice.stopped_higher[:1]
    ]
    return Said("proposed", headline, numbers, plain, tuple(beware))


def _next(evidence: StudyEvidence, finals: FinalsFound) -> list[Part]:
    """How the model that was tested comes into use; [] before there is one."""
    tested = {each.final_id for each in finals.tested}
    names = [final.plan.model_name for final in evidence.finals if final.plan.final_id in tested]
    if not names:
        return []
    given = "" if names[-1] == MODEL_NAME else f" --model-name {names[-1]}"
    return [
        Paragraph(
            f"**To do next**: `sage-ray promote{given}` makes the newest version the champion if it is better than the "
            f"one before; `sage-ray predict models:/{names[-1]}@champion IMAGES -o masks` measures images with it."
        )
    ]


def _nothing_said(reason: str) -> Said:
    return Said("open", "The arms cannot be told apart yet.", "", f"{upper_first(reason)}." if reason else "", ())


def _arms(evidence: StudyEvidence) -> ArmsFound:
    from sage_ray.analysis.study_facts import study_facts
    from sage_ray.analysis.tidy import collect
    from sage_ray.reports.arm_findings import arms_found

    tidy = collect(evidence.home, [evidence.name])
    return arms_found(tidy, study_facts(tidy, evidence.name))


def _tested_parts(evidence: StudyEvidence, finals: FinalsFound) -> list[Part]:
    if finals.parts:
        return [
            *whose_images(evidence, finals.tested),
            *finals.parts,
            *why_tested(evidence),
            *image_by_image(finals.tested, evidence.images),
        ]
    told = "No final training of this study has been scored on the locked test yet"
    ask = f"`sage-ray final {evidence.name} --seeds 0,1,2` trains the proposal and scores it there once."
    return [Paragraph(f"{told}: {ask}"), *why_tested(evidence)]


def _cautions(evidence: StudyEvidence, finals: FinalsFound) -> list[Part]:
    """What to beware of on the first screen: an unfinished study, failures, finals on other data, changed code."""
    study, found = evidence.status, []
    if study.state != "finished":
        found.append(f"The study is {study.state}: {study.done} of {study.target} are complete, and this may change.")
    if study.failed:
        found.append(f"{study.failed} of {study.target} failed; why stands below.")
    own = {record.data_fingerprint for record in evidence.finished_records}
    waiting = [final.called for final in evidence.finals if not final.finished]
    if waiting:
        found.append(f"Not yet trained to the end, so not tested: {', '.join(waiting)}.")
    other = [each.name for each in finals.tested if own and each.fingerprint not in {str(each) for each in own}]
    if other:
        found.append(f"Trained on other data than the study, so no test of its choice: {', '.join(other)}.")
    late = asked_after_reading(evidence)
    if late:
        found.append(f"Asked for when this test had been read already, so that its scores may have had a part: {late}.")
    if any(record.unknown_pairs for record in evidence.all_records):
        found.append("Some runs learned from extra pairs of unknown origin, which may know images of the locked test.")
    return [Paragraph(text, "caution") for text in found]
