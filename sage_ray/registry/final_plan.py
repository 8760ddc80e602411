"""What a final training will do, decided and written down before any of it starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sage_ray.config import ExperimentConfig, build_config, stable_hash
from sage_ray.errors import UserError
from sage_ray.files import read_json, write_json
from sage_ray.followed import pull, push
from sage_ray.record.home import LOOK_S, Home
from sage_ray.record.provenance import now, who
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.best import best, read_trials
from sage_ray.sections import PHASES
from sage_ray.stages.pair_keys import origin_config
from sage_ray.system_rules import has_segmenter

FORMAT_VERSION = 1


class FinalPlan(BaseModel):
    """`finals/ID.json`: seeds, config and the seed to be registered, declared before training."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int = FORMAT_VERSION
    final_id: str
    model_name: str
    source: str
    """Study, run or config that it came from."""
    study: str | None = None
    trial: int | None = None
    choice: str
    """How the trial was asked for: best, base, or a number."""
    rule: str
    seeds: tuple[int, ...]
    """The first is the one that will be registered."""
    config: dict[str, Any]
    """Whole config of the first seed, `runtime` included."""
    created: str = ""
    by: str = ""

    def run_config(self, seed: int) -> ExperimentConfig:
        """Config of one seed's run."""
        return build_config(self.config, self.final_id).with_values({"seed": seed})

    def run_id(self, seed: int) -> str:
        """Name of the run of one seed."""
        return f"{self.final_id}-s{seed}"

    @property
    def run_ids(self) -> list[str]:
        """Names of all its runs, in the order of the seeds."""
        return [self.run_id(seed) for seed in self.seeds]


def is_base(home: Home, study: str | None, trial: int | None, choice: str | None) -> bool:
    """Whether a final training is that of its study's untuned base, also where `best` or a number has asked for it.

    Args:
        home: that may hold the study; of one that it does not hold, what was asked for tells.
        study: that it came from.
        trial: of the study.
        choice: how the trial was asked for.

    Raises:
        UserError: the study is damaged.
    """
    from sage_ray.search.study_folder import StudyFolder

    if choice == "base":
        return True
    if study is None or trial is None or study not in home.study_names():
        return False
    return StudyFolder.open(home, study).spec().is_untuned(trial)


def plan_path(home: Home, final_id: str) -> Path:
    """finals/ID.json of a home."""
    return home.finals / f"{final_id}.json"


def read_plan(home: Home, final_id: str) -> FinalPlan:
    """A declared final training.

    Raises:
        UserError: there is none of that id, or its file is damaged.
    """
    path = plan_path(home, final_id)
    pull(path, every_s=LOOK_S)
    try:
        return FinalPlan.model_validate(read_json(path))
    except FileNotFoundError:
        known = home.final_ids()
        mend = "there are " + ", ".join(known) if known else "`sage-ray final STUDY` starts one"
        raise UserError("no such final training", final_id, mend) from None
    except (ValidationError, ValueError):
        raise UserError("damaged file", path, "remove it and repeat `sage-ray final`; finished runs are kept") from None


def declare(plan: FinalPlan, home: Home) -> FinalPlan:
    """Write the plan, unless it was declared before; returns what stands in the file."""
    path = plan_path(home, plan.final_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    stamped = plan.model_copy(update={"created": now(), "by": who()})
    pull(path)
    write_json(path, stamped.model_dump(mode="json"), only_if_absent=True)
    push(path)
    return read_plan(home, plan.final_id)


def make_plan(
    source: str | ExperimentConfig, home: Home, *, trial: str | int, seeds: tuple[int, ...], model_name: str
) -> FinalPlan:
    """The plan of a final training of a study, a finished run, or a config.

    Raises:
        UserError: unknown source or trial, no or repeated seeds, a bad model name, no locked test part, or a
            learning-rate rule that needs a validation part and has no recorded drops.
    """
    check_seeds(seeds)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", model_name):
        raise UserError("bad model name", repr(model_name), "use letters, digits and . _ -")
    facts: dict[str, Any] = {"study": None, "trial": None, "choice": "config"}
    drops: dict[str, list[int]] | None = None
    if isinstance(source, ExperimentConfig):
        config, label, facts["rule"] = source, "config", "the given config, without a search"
    elif (home.studies / source).is_dir():
        config, drops, found = _from_study(source, home, trial)
        facts |= found
        label = source
    elif source in home.run_ids():
        run = RunFolder.open(home.runs, source)
        record = run.read()
        config, drops, label = run.config(), record.lr_drops if record.finished else None, source
        facts |= {"rule": f"config of run {source}, without a search", "choice": "run"}
    else:
        best(source, home)  # raises, naming the nearest study
        raise UserError("no such study or run", source, "`sage-ray list` shows them")
    if not has_segmenter(config.adversarial):
        what = f"system {config.adversarial.system} has no segmenter that a final training could score"
        raise UserError(what, label, "use its run by `sage-ray generate`, or choose another adversarial.system")
    final = final_config(config, drops, label).with_values({"seed": seeds[0]})
    identity = {**final.identity(), "seed": None}
    key = stable_hash({"config": identity, "seeds": seeds, "model": model_name})[:8]
    trial_label = f"-t{facts['trial']:04d}" if facts["trial"] is not None else ""
    return FinalPlan(
        final_id=f"final-{label}{trial_label}-{key}",
        model_name=model_name,
        source=label,
        seeds=seeds,
        config=final.model_dump(mode="json"),
        **facts,
    )


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raise UserError unless there is at least one seed, none negative, none twice."""
    if not seeds or any(seed < 0 for seed in seeds):
        raise UserError("no usable seeds", f"seeds {list(seeds)}", "give whole numbers >= 0; the first is registered")
    if len(set(seeds)) != len(seeds):
        raise UserError("seed given twice", f"seeds {list(seeds)}", "name each seed once")


def _from_study(
    name: str, home: Home, trial: str | int
) -> tuple[ExperimentConfig, dict[str, list[int]] | None, dict[str, Any]]:
    facts: dict[str, Any] = {"study": name, "choice": str(trial)}
    if trial == "best":
        choice = best(name, home)
        return choice.config, choice.lr_drops, facts | {"trial": choice.trial, "rule": choice.rule}
    if trial == "base":
        return _base_of(name, home, facts)
    try:
        number = int(trial)
    except ValueError:
        raise UserError("bad trial", f"--trial {trial}", "give best, base or a trial's number") from None
    runs = read_trials(name, home).runs
    if number not in runs:
        known = ", ".join(str(n) for n in sorted(runs)) or "none"
        raise UserError("no such complete trial", f"study {name}, trial {number}", f"complete are {known}")
    run = runs[number][0]
    return run.config(), run.read().lr_drops, facts | {"trial": number, "rule": f"trial {number}, chosen by hand"}


def _base_of(
    name: str, home: Home, facts: dict[str, Any]
) -> tuple[ExperimentConfig, dict[str, list[int]] | None, dict[str, Any]]:
    from sage_ray.search.study_folder import StudyFolder

    spec = StudyFolder.open(home, name).spec()
    rule = "the untuned base of the study" if spec.kind == "sweep" else "the reference arm of the ablation"
    base = spec.untuned
    # A trial of the base has the drops that its validation drove; by identity, since a point {} is the base.
    for number, runs in read_trials(name, home).runs.items():
        config = runs[0].config()
        split = {f"data.split.{name}": getattr(base.data.split, name) for name in ("fold", "subset")}
        same_run = config.with_values({"seed": base.seed, **split})
        if same_run.config_hash() == base.config_hash():
            return config, runs[0].read().lr_drops, facts | {"trial": number, "rule": rule}
    return base, None, facts | {"rule": rule}


def final_config(config: ExperimentConfig, lr_drops: dict[str, list[int]] | None, where: str) -> ExperimentConfig:
    """`config` changed so that it trains on train + validation for a fixed number of epochs.

    Last (or averaged) weights are kept and handed on; a plateau rule becomes the recorded drops.

    Raises:
        UserError: no locked test part, a plateau rule without recorded drops, or extra pairs by a preset that has one.
    """
    if config.data.split.test == 0:
        raise UserError("no locked test part", f"{where}, data.split.test=0", "final scores need one: set it above 0")
    values: dict[str, Any] = {
        "data.split.validation": 0.0,
        "data.split.folds": 0,
        "data.split.fold": 0,
        # However few labels a study gave: the model that is used learns from all outside the locked test. A part (A, B
        # or C) stays: its generator is judged on images of the others.
        "data.split.labels": 0,
        "data.split.subset": 0,
        "data.split.unlabelled": "drop",
        "evaluation.select": "ema" if config.evaluation.ema_decay > 0 else "last",
        "pretrain.handoff": "last",
    }
    gpus = config.runtime.gpus_per_worker
    if gpus != "auto" and 0 < gpus < 1:
        # The trials of the study shared their GPU; this run has nobody to share it with.
        values["runtime.gpus_per_worker"] = 1.0
    for phase in PHASES:
        section = config.phase(phase)
        if section.schedule.rule != "plateau":
            continue
        if lr_drops is None and section.num_epochs:
            raise UserError(
                "learning-rate drops are unknown",
                f"{where}, {phase}.schedule.rule=plateau",
                "name a study or a finished run whose drops can be replayed, or set rule constant or drops",
            )
        values[f"{phase}.schedule.rule"] = "drops"
        values[f"{phase}.schedule.drops"] = list((lr_drops or {}).get(phase, ()))
    final = config.with_values(values)
    origin_config(final)  # what makes its extra pairs has no validation part either
    return final
