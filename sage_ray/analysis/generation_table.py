"""What `sage-ray fidelity` found of each run of a study, one line per arm: masks shown, distances from real images."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.analysis.arm_means import ArmMean
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tables import NONE, TextTable, interval, number, percent
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError
from sage_ray.files import read_json
from sage_ray.metrics.definitions import SET_SUMMARIES
from sage_ray.record.run_record import FINISHED
from sage_ray.statistics.combined import t_quantile

RESULT = Path("artifacts/fidelity/fidelity.json")
MASK_NOTES = (
    "Fidelity: Dice of an independent segmenter's mask of the image with the mask that it was made from. Ceiling: the "
    "same segmenter on the real images, of the same masks; in brackets where images were made from other masks. Null: "
    "with the masks of other micrographs (pairs). Collusion: how much better the generator's own segmenter reads its "
    "images than its advantage on real ones explains.",
)
SET_NOTES = (
    "MMD: unbiased squared distance of the images from real ones, 0 on average without a difference; halves: of two "
    "halves of the real images. p < .05: in how many runs by permutation of micrographs, and the median p.",
    "Spectrum (decades) and grey values (Wasserstein, 0 to 255) are distances of the two sets, in brackets those of "
    "two halves of the real images; matched: after the images as a whole got mean and deviation of the real ones.",
    "Frechet distances are of half of the images at equal numbers; they decide nothing. Published: row 32's formula.",
    "SSIM and LPIPS are of each image beside the real one of its mask, which rendered and drawn images do not have.",
)


@dataclass(frozen=True)
class ScoredRun:
    """What was found of a run. Attributes: arm, seed; told is the content of its fidelity.json."""

    arm: str
    seed: int
    told: dict[str, Any]

    @property
    def paired(self) -> bool:
        """Whether its images have the real images of their masks as partners."""
        return bool(self.told.get("paired", True))


@dataclass(frozen=True)
class ScoredStudy:
    """The images of a study's arms, as both tables take them.

    Attributes:
        facts: of the study.
        runs: that were scored.
        means: of a score and an arm, where images are crossed with seeds.
        level: of the intervals.
        partial: what is missing.
    """

    facts: StudyFacts
    runs: Sequence[ScoredRun]
    means: Mapping[tuple[str, str], ArmMean]
    level: float
    partial: Sequence[str] = ()

    def by_arm(self) -> list[tuple[str, list[ScoredRun]]]:
        """The arms that have scored runs, in the order of the design, with those."""
        arms = dict.fromkeys([*self.facts.arms, *(run.arm for run in self.runs)])
        found = ((arm, [run for run in self.runs if run.arm == arm]) for arm in arms)
        return [(arm, own) for arm, own in found if own]

    def score(self, arm: str, own: Sequence[ScoredRun], name: str) -> str:
        """The mean of a score over the runs of an arm with its interval, as text."""
        known = self.means.get((name, arm))
        if known is not None and math.isfinite(known.low):
            return interval(known.mean, known.low, known.high)
        lines = [run.told["scores"][name] for run in own if name in run.told.get("scores", {})]
        lines = [line for line in lines if line["mean"] is not None]
        return interval(*over_runs(lines, "mean", self.level)) if lines else NONE


def scored_runs(tidy: Tidy, facts: StudyFacts, without: Collection[str] = ()) -> list[ScoredRun]:
    """The finished runs of a study whose images were scored and whose artifacts are at hand.

    Raises:
        UserError: they were judged by several judges.
    """
    runs = study_runs(tidy, facts.name)
    found = []
    for run in runs[(runs["state"] == FINISHED) & ~runs["arm"].isin(list(without))].itertuples():
        try:
            found.append(
                ScoredRun(str(run.arm), int(str(run.seed)), read_json(tidy.home.runs / str(run.run_id) / RESULT))
            )
        except (OSError, ValueError):  # not scored, or fetched from MLflow without its artifacts
            continue
    judges = sorted({str(run.told.get("judge", {}).get("text")) for run in found})
    if len(judges) > 1:
        mend = "score all runs with one judge: `sage-ray fidelity RUN --judge MODEL`"
        raise UserError("runs have definitions of their own by their judges", f"study {facts.name}: {judges}", mend)
    return found


def over_runs(lines: Sequence[Mapping[str, Any]], value: str, level: float) -> tuple[float, float, float]:
    """Mean of a number over runs with its interval, as its mean error over images and its spread over runs add up.

    The runs share the real images, so that the images' error is not made smaller by more runs. With one run the
    interval is its own.

    Args:
        lines: of each run, with `value`, low and high.
        value: name of the number.
        level: of the intervals.
    """
    values = np.array([line[value] for line in lines], np.float64)
    mean = float(values.mean())
    below, above = (
        float(np.mean([math.nan if line[end] is None else abs(line[end] - line[value]) for line in lines]))
        for end in ("low", "high")
    )
    spread = 0.0
    if len(values) > 1:
        spread = float(values.std(ddof=1) / math.sqrt(len(values)) * t_quantile(len(values) - 1, level))
    return mean, mean - math.hypot(below, spread), mean + math.hypot(above, spread)


def mask_table(study: ScoredStudy) -> TextTable:
    """Fidelity beside its ceiling, null and collusion of each arm."""
    rows = []
    for arm, own in study.by_arm():
        cells = [study.score(arm, own, name) for name in ("fidelity", "null", "collusion")]
        real = [run.told["judge_on_real"] for run in own if "judge_on_real" in run.told]
        ceiling = study.score(arm, own, "ceiling")
        if ceiling == NONE and real:
            ceiling = f"({number(float(np.mean([line['mean'] for line in real])))})"
        kind = f"{own[0].told.get('images', NONE)} {'masks' if own[0].paired else 'made pairs'}"
        rows.append([study.facts.called(arm), str(len(own)), kind, cells[0], ceiling, *cells[1:]])
    return TextTable(
        title=f"Do the images of {study.facts.name} show their masks?",
        columns=["arm", "runs", "images", f"fidelity [{percent(study.level)}]", "ceiling", "null", "collusion"],
        rows=rows,
        notes=[*MASK_NOTES, *_judge(study.runs)],
        partial=study.partial,
    )


def generation_table(study: ScoredStudy) -> TextTable:
    """Distances of each arm's images from real ones."""
    features = sorted({str(run.told["distances"]["features"]) for run in study.runs})
    alike = len(features) == 1
    rows = [
        [study.facts.called(arm), str(len(own)), *_distances(study, arm, own, alike=alike)]
        for arm, own in study.by_arm()
    ]
    told = f"MMD and Frechet distances are in {features[0]}." if alike else (
        f"MMD and Frechet distances are left out: runs have them in several features ({'; '.join(features)})."
    )  # fmt: skip
    columns = [
        "arm", "runs", f"MMD [{percent(study.level)}]", "p < .05", "MMD of halves", "SSIM", "LPIPS", "spectrum",
        "grey inside", "matched", "grey outside", "matched", "Frechet", "of halves", "published",
    ]  # fmt: skip
    return TextTable(
        title=f"Do the images of {study.facts.name} look real?",
        columns=columns,
        rows=rows,
        notes=[told, *SET_NOTES],
        partial=study.partial,
    )


def distance_numbers(runs: Sequence[ScoredRun], level: float) -> pd.DataFrame:
    """One row per arm: arm, mmd with mmd_low, mmd_high and p (median), halves, Frechet distances, SET_SUMMARIES."""
    rows: list[dict[str, Any]] = []
    for arm in dict.fromkeys(run.arm for run in runs):
        own = [run.told["distances"] for run in runs if run.arm == arm]
        mmd = over_runs([found["mmd"] for found in own], "value", level)
        row: dict[str, Any] = {"arm": arm, **dict(zip(("mmd", "mmd_low", "mmd_high"), mmd, strict=True))}
        row["p"] = float(np.median([found["mmd"]["p_value"] for found in own]))
        named = {"frechet": "generated", "frechet_halves": "real", "published": "generated_published"}
        row["halves"] = _mean(own, "real_halves", "value")
        row |= {name: _mean(own, "frechet", key) for name, key in named.items()}
        row |= {name: _mean(own, "summaries", name) for name in SET_SUMMARIES}
        rows.append(row)
    return pd.DataFrame(rows)


def unpaired_numbers(runs: Sequence[ScoredRun], level: float) -> pd.DataFrame:
    """Fidelity and null of the arms whose images have no real partners, in columns of `ablation.numbers`."""
    rows: list[dict[str, Any]] = []
    for arm in dict.fromkeys(run.arm for run in runs if not run.paired):
        own = [run for run in runs if run.arm == arm]
        for score in ("fidelity", "null"):
            mean, low, high = over_runs([run.told["scores"][score] for run in own], "mean", level)
            row = {"score": score, "part": "generated", "arm": arm, "mean": mean, "mean_low": low, "mean_high": high}
            rows.append(row | {"num_seeds": len(own), "definition": own[0].told["scores"][score]["definition"]})
    return pd.DataFrame(rows)


def _distances(study: ScoredStudy, arm: str, own: Sequence[ScoredRun], *, alike: bool) -> list[str]:
    """The cells of an arm in `generation_table`; `alike`: whether all runs have the same features."""
    told = [run.told["distances"] for run in own]
    mmd = [NONE] * 3
    frechet = [NONE] * 3
    if alike:
        p_values = [found["mmd"]["p_value"] for found in told]
        low = sum(p < 0.05 for p in p_values)
        mmd = [
            _short_interval(*over_runs([found["mmd"] for found in told], "value", study.level)),
            f"{low} of {len(told)} ({np.median(p_values):.3f})",
            _short(_mean(told, "real_halves", "value")),
        ]
        names = ("generated", "real", "generated_published")
        frechet = [_short(_mean(told, "frechet", key)) for key in names]
    sets = [
        _beside_halves(told, name) for name in ("spectrum", "inside", "inside_matched", "outside", "outside_matched")
    ]
    return [*mmd, *(study.score(arm, own, name) for name in ("ssim", "lpips")), *sets, *frechet]


def _beside_halves(told: Sequence[dict[str, Any]], name: str) -> str:
    ours = _mean(told, "summaries", f"set_{name}")
    halves = _mean(told, "summaries_of_halves", f"set_{name}")
    return NONE if math.isnan(ours) else f"{number(ours)} ({number(halves)})"


def _short(value: float) -> str:
    """Four digits: distances in features have no scale of their own."""
    return f"{value:.4g}" if math.isfinite(value) else NONE


def _short_interval(value: float, low: float, high: float) -> str:
    return f"{_short(value)} [{_short(low)}, {_short(high)}]" if math.isfinite(low) else _short(value)


def _mean(told: Sequence[dict[str, Any]], part: str, name: str) -> float:
    """Mean over runs of a number of their distances; NaN where one does not tell it."""
    values = [found.get(part, {}).get(name) for found in told]
    return math.nan if any(value is None for value in values) else float(np.mean(values))


def _judge(runs: Sequence[ScoredRun]) -> list[str]:
    texts = {run.told["judge"]["text"] for run in runs if "text" in run.told.get("judge", {})}
    return [f"Judge: {text}; intervals speak of it alone." for text in sorted(texts)]
