"""Claims: stages that trials share are trained once, which saves epochs and as much time; ASHA saves more on top.

Two questions that users ask at once, how many epochs of each phase and how strong a cycle: `pretrain.epochs` x
`adversarial.epochs` x `adversarial.lambda_cycle`, on drawn particles, one trial at a time, one thread per trial.

**grid.** All configurations, as a study of an empty home and as trials of plain Ray Tune with reused actors over the
bare loop, each with a stage store of its own. The study comes before and after plain Tune, so that a machine that gets
slower or faster favours neither. Claim: at least 2.6 times fewer epochs; the ratio of wall times within 15 % of that of
epochs; every trial with the same score and bit-equal weights. It depends on how long trials train: a first grid of half
the epochs of phase 2 (6 s of training per trial of the study) saved 2.79 times in epochs and 2.18 in wall time, 22 %
short, since the start of a study and what each trial costs beside its epochs do not shrink.

**asha.** Configurations drawn at random from a larger space, three seeds of the sampler: a study with ASHA, which takes
stages over, against plain Ray Tune that trains every one of the same configurations to its end (FIFO, nothing shared).
Claim: at least 8 times fewer epochs at an equal best score. Equal means, as was laid down before the first look:
both have the same best configuration, or the best objective of the ASHA study lies at most one standard error of the
plateau below that of FIFO: 1.25 s / sqrt(k) for a median of k epochs whose scores have the standard deviation s. ASHA's
grace ends four epochs after the longest phase 1, which all trials share, so that it judges what lambda does. Its 48
trials were settled after a study with another seed (10) of 40 trials saved 7.8 times; FIFO was not run for it. They are
48 of 50 cells, so that seeds differ in the order of trials above all. The claim is judged with the reduction factor
that is the default, 3. Factor 2, added when the first results were known, shows what stopping less costs and brings.

What is saved by reuse alone is `plan`'s count (every trial to its end, each stage once); by stopping alone, the epochs
up to where each trial ended, reused ones too. Processor time is that of all processes: driver, Ray and trials. Ray is
started before any clock. Pictures are off in both; MLflow is on in the studies.

A part that has ended is kept in `--work FOLDER`, so that an interrupted benchmark goes on; `--only` runs some parts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from benchmarks.record import save
from benchmarks.reuse_arms import Arm, TrialResult, run_here, run_plain
from sage_ray.metrics.reduction import PLATEAU_SHARE
from sage_ray.record.home import Home
from sage_ray.search.plan import plan
from sage_ray.search.ray_session import environment, ray_session
from sage_ray.search.study_status import trial_config
from sage_ray.study.space import Space, load_space

FEWER_BY_REUSE = 2.6
FEWER_WITH_ASHA = 8.0
WALL_WITHIN = 0.15
ASHA_CLAIM = (
    f"Claim for asha, factor 3: at least {FEWER_WITH_ASHA:g} times fewer epochs at an equal best, which means the same "
    "trial, or at most one standard error of the plateau (tolerance) below. Shares of reuse are those of logarithms."
)
MEDIAN_SE = 1.25
"""Standard error of a median, in standard errors of a mean."""


@dataclass(frozen=True)
class Size:
    """How large the images and networks are, and which values the three dimensions have."""

    images: int
    side: int
    depth: int
    batch: int
    pretrain: tuple[int, ...]
    adversarial: tuple[int, ...]
    lambdas: tuple[float, ...]
    trials: int | None = None
    grace: int = 0


GRID = Size(40, 64, 3, 4, pretrain=(2, 4), adversarial=(16, 32, 48, 64), lambdas=(0.3, 3.0))
ASHA = Size(
    24, 32, 2, 8, pretrain=(2, 4), adversarial=(10, 20, 30, 40, 50), lambdas=(0.1, 0.3, 1.0, 3.0, 10.0),
    trials=48, grace=8,
)  # fmt: skip
SEEDS = (0, 1, 2)
FACTORS = (3, 2)
"""Reduction factors of ASHA; the claim is judged with the first."""


def main() -> int:
    """Exit code: 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for parts that have ended (default: a temporary one)")
    parser.add_argument("--only", default=",".join(["grid", *(f"asha-{seed}" for seed in SEEDS)]), help="parts to run")
    parser.add_argument("--name", default="reuse", help="name of the result files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, environment(), ray_session():
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        parts = [kept(work / f"{part}.json", part, Path(temporary)) for part in options.only.split(",")]
    save(
        options.name,
        "What reuse saves, alone and with ASHA",
        [row for part in parts for row in part["rows"]],
        [*(line for part in parts for line in part["notes"]), ASHA_CLAIM],
    )
    return int(not all(part["holds"] for part in parts))


def kept(file: Path, part: str, folder: Path) -> dict[str, Any]:
    """The part that a file holds, or else that is run now and written there."""
    if not file.exists():
        kind, _, seed = part.partition("-")
        found = grid_part(GRID, folder) if kind == "grid" else asha_part(ASHA, int(seed), folder)
        file.write_text(json.dumps(found))
    found = json.loads(file.read_text())
    assert isinstance(found, dict)
    return found


def grid_part(size: Size, folder: Path) -> dict[str, Any]:
    """Row, notes and verdict of the grid: a study, plain Tune, and a study again in another empty home."""
    space = make_space(folder, "grid", size)
    first = run_here(space, Home(folder / "grid-a"))
    plain = beside(space, folder, "grid-a")
    second = run_here(space, Home(folder / "grid-b"))
    planned = plan(space, Home(folder / "grid-plan"))
    assert (plain.epochs, first.epochs) == (planned.epochs_without_reuse, planned.epochs_with_reuse), "beside the plan"
    here = dataclasses.replace(
        first,
        wall_s=(first.wall_s + second.wall_s) / 2,
        cpu_s=(first.cpu_s + second.cpu_s) / 2,
        start_s=(first.start_s + second.start_s) / 2,
        seconds={phase: (s + second.seconds[phase]) / 2 for phase, s in first.seconds.items()},
    )
    row = costs("grid", plain, here) | {"fewer by reuse alone": plain.epochs / here.epochs}
    equal = equal_trials(plain, first) + equal_trials(plain, second)
    off = row["faster"] / row["fewer"] - 1
    notes = [
        f"**grid**: {len(plain.trials)} configurations. Claim: at least {FEWER_BY_REUSE} times fewer epochs; here "
        f"{row['fewer']:.2f}, and exactly those of the plan. Claim: wall time within {WALL_WITHIN:.0%} of that; here "
        f"{row['faster']:.2f} times less, {off:+.1%}, and {row['less CPU']:.2f} times less processor time. "
        f"Of two studies {equal} of {2 * len(plain.trials)} trials have the score and, bit for bit, the weights of "
        "plain Tune's.",
        f"Epochs of phase 1 and 2: {phases(plain.trained)} plain, {phases(here.trained)} here. An epoch took "
        f"{per_epoch(plain)} s plain and {per_epoch(here)} s here: phase 1, of which more is shared, is the cheaper "
        f"one, so that the epochs saved are worth {worth(plain, here):.2f} times in seconds. Beside its epochs a trial "
        f"took {plain.beyond_s / len(plain.trials):.2f} s plain and {here.beyond_s / len(here.trials):.2f} s here; the "
        f"first one began {plain.start_s:.1f} s and {here.start_s:.1f} s after the start, part of the wall times. "
        f"The two studies took {first.wall_s:.0f} s and {second.wall_s:.0f} s.",
    ]
    holds = row["fewer"] >= FEWER_BY_REUSE and abs(off) <= WALL_WITHIN and equal == 2 * len(plain.trials)
    return {"rows": [row], "notes": notes, "holds": holds}


def asha_part(size: Size, seed: int, folder: Path) -> dict[str, Any]:
    """Rows, notes and verdict of one seed: a study with ASHA, plain Tune to the end of each trial, a gentler study."""
    spaces = [make_space(folder, f"asha-{seed}-{factor}", size, (seed, factor)) for factor in FACTORS]
    first = run_here(spaces[0], Home(folder / spaces[0].name))
    plain = beside(spaces[0], folder, spaces[0].name)
    arms = [first, *(run_here(space, Home(folder / space.name)) for space in spaces[1:])]
    labels = [f"asha, seed {seed}, factor {factor}" for factor in FACTORS]
    found = [
        asha_study(label, space, plain, arm, folder) for label, space, arm in zip(labels, spaces, arms, strict=True)
    ]
    return {
        "rows": [study["row"] for study in found],
        "notes": [study["note"] for study in found],
        "holds": found[0]["holds"],
    }


def asha_study(label: str, space: Space, plain: Arm, here: Arm, folder: Path) -> dict[str, Any]:
    """Row, note and verdict of one study with ASHA beside plain Tune over its configurations."""
    planned = plan(space, Home(folder / f"{space.name}-plan"))
    assert plain.epochs == planned.epochs_without_reuse, "beside the plan"
    (best, top), (found, best_here) = best_of(plain), best_of(here)
    tolerance = plateau_error(top)
    equal = best == found or best_here.objective >= top.objective - tolerance
    row = costs(label, plain, here) | {
        "fewer by reuse alone": plain.epochs / planned.epochs_with_reuse,
        "fewer by stopping alone": plain.epochs / here.told,
        "share of reuse": reuse_share(plain.epochs, planned.epochs_with_reuse, here.told, here.epochs),
        "best plain": top.objective,
        "best here": best_here.objective,
        "tolerance": tolerance,
        "equal": "same trial" if best == found else "yes" if equal else "no",
    }
    alike, trials = equal_trials(plain, here), space.trials
    better = sum(trial.objective > best_here.objective for trial in plain.trials.values())
    note = (
        f"**{label}**: {trials} configurations, {len(here.trials)} trained to their end here, {alike} of these with "
        f"score and weights of plain Tune's, bit for bit. Best: trial {best} plain ({settings(space, folder, best)}), "
        f"trial {found} here ({settings(space, folder, found)}), {top.objective - best_here.objective:.4f} below; "
        f"{better} plain trials score higher than it. An epoch took {per_epoch(plain)} s plain and {per_epoch(here)} s "
        f"here, a trial beside its epochs {plain.beyond_s / trials:.2f} s and {here.beyond_s / trials:.2f} s."
    )
    holds = row["fewer"] >= FEWER_WITH_ASHA and equal and alike == len(here.trials)
    return {"row": row, "note": note, "holds": holds}


def make_space(folder: Path, name: str, size: Size, asha: tuple[int, int] | None = None) -> Space:
    """The grid of the three dimensions, or a random draw from it under ASHA, by seed and reduction factor."""
    tree: dict[str, Any] = {
        "name": name,
        "base": {"preset": "tiny_sage_gan", "set": base_values(size)},
        "objective": {"metric": "val/dice", "reduce": "plateau"},
        "space": {
            "pretrain.epochs": {"categorical": list(size.pretrain)},
            "adversarial.epochs": {"categorical": list(size.adversarial)},
            "adversarial.lambda_cycle": {"categorical": list(size.lambdas)},
        },
        "points": [],
        "concurrency": 1,
        "resources": {"cpu": 1, "gpu": 0},
    }
    if asha is None:
        tree |= {"sampler": {"name": "grid"}, "scheduler": {"name": "fifo"}}
    else:
        seed, factor = asha
        tree |= {"sampler": {"name": "random", "seed": seed}, "trials": size.trials}
        tree |= {"scheduler": {"name": "asha", "grace_epochs": size.grace, "reduction_factor": factor}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_space(path)


def base_values(size: Size) -> dict[str, Any]:
    """What the benchmark sets in the preset: size, one thread, no pictures."""
    return {
        "data.path": f"synthetic://ordered?num={size.images}&size={size.side}&seed=0",
        "data.image_size": [size.side, size.side],
        "segmenter.depth": size.depth,
        "generator.depth": size.depth,
        "pretrain.batch_size": size.batch,
        "adversarial.batch_size": size.batch,
        "runtime.threads": 1,
        "runtime.pictures": False,
    }


def beside(space: Space, folder: Path, home: str) -> Arm:
    """Plain Ray Tune over the configurations that the study of a home drew, in its order."""
    at = Home(folder / home)
    configs = [trial_config(space.name, at, number) for number in range(space.trials)]
    return run_plain(configs, space.objective, folder / f"{home}-plain", at.cache)


def costs(part: str, plain: Arm, here: Arm) -> dict[str, Any]:
    """Epochs, wall seconds and processor seconds of both arms, and their ratios."""
    return {
        "part": part,
        "trials": len(plain.trials),
        "epochs plain": plain.epochs,
        "epochs here": here.epochs,
        "fewer": plain.epochs / here.epochs,
        "wall s plain": round(plain.wall_s, 1),
        "wall s here": round(here.wall_s, 1),
        "faster": plain.wall_s / here.wall_s,
        "CPU s plain": round(plain.cpu_s, 1),
        "CPU s here": round(here.cpu_s, 1),
        "less CPU": plain.cpu_s / here.cpu_s,
    }


def equal_trials(plain: Arm, here: Arm) -> int:
    """How many trials of a study have the score and the weights, bit for bit, that plain Tune came to."""
    return sum(
        (result.objective, result.weights_sha) == (plain.trials[number].objective, plain.trials[number].weights_sha)
        for number, result in here.trials.items()
    )


def best_of(arm: Arm) -> tuple[int, TrialResult]:
    """Number and result of the best trial that ran to its end."""
    return max(arm.trials.items(), key=lambda item: item[1].objective)


def plateau_error(result: TrialResult) -> float:
    """Standard error of a trial's objective, the median over the last fifth of the epochs of its last phase."""
    kept_scores = result.scores[-math.ceil(PLATEAU_SHARE * len(result.scores)) :]
    spread = statistics.stdev(kept_scores) if len(kept_scores) > 1 else 0.0
    return MEDIAN_SE * spread / math.sqrt(len(kept_scores))


def reuse_share(nothing: int, reuse: int, stopping: int, both: int) -> float:
    """Share of reuse in the factor saved, as logarithms: the mean of what it saves first, and after stopping."""
    total = math.log(nothing / both)
    return (math.log(nothing / reuse) + math.log(stopping / both)) / 2 / total if total else math.nan


def worth(plain: Arm, here: Arm) -> float:
    """The ratio of seconds that the epochs saved lead one to expect, at what an epoch of each phase takes plain."""
    cost = {phase: plain.seconds[phase] / count for phase, count in plain.trained.items()}
    return sum(plain.seconds.values()) / sum(cost[phase] * count for phase, count in here.trained.items())


def phases(counts: dict[str, int]) -> str:
    """Numbers of both phases, as text."""
    return " and ".join(str(counts.get(phase, 0)) for phase in ("pretrain", "adversarial"))


def per_epoch(arm: Arm) -> str:
    """Seconds of an epoch of both phases, as text."""
    return " and ".join(f"{arm.seconds[phase] / arm.trained[phase]:.3f}" for phase in ("pretrain", "adversarial"))


def settings(space: Space, folder: Path, number: int) -> str:
    """Epochs of both phases and lambda of a trial of a study, whose home has its name, as text."""
    config = trial_config(space.name, Home(folder / space.name), number)
    return f"{config.pretrain.epochs} + {config.adversarial.epochs} epochs, lambda {config.adversarial.lambda_cycle:g}"


if __name__ == "__main__":
    sys.exit(main())
