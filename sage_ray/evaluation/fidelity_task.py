"""What `fidelity` scores: a generator, or the made pairs of a run; real pairs; and who has seen which images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sage_ray.config import ExperimentConfig
from sage_ray.data.other_data import read_alike
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.data.splits import THIRDS, group_names
from sage_ray.errors import UserError
from sage_ray.evaluation.judge import real_data
from sage_ray.evaluation.run_pairs import RunPairs, mask_groups, pairs_of_run
from sage_ray.evaluation.seen_images import seen_and_tested, seen_by
from sage_ray.imaging.model import Model
from sage_ray.metrics.definitions import truth_of
from sage_ray.metrics.generation import LEAST_GROUPS
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef, resolve_model
from sage_ray.record.run_folder import RunFolder
from sage_ray.sections import DataConfig
from sage_ray.training.context import choose_device
from sage_ray.training.scoring import score_definitions

LEAST_IMAGES = 8
"""Fewer scored images say nothing."""


@dataclass(frozen=True, eq=False)
class FidelityTask:
    """What is scored: a generator or a run's pairs, real data in parts, and who has seen what.

    Attributes:
        rows: of `data`, the real images that are compared with, whose masks a generator is given.
        pairs: that are scored in the place of what a generator draws; they show masks of their own.
        seen: sha256 of images and mask files that the generator, or the maker of the pairs, has learned from.
        tested: sha256 of the images of the locked test.
    """

    ref: ModelRef
    config: ExperimentConfig
    model: Model
    data: PreparedData
    rows: np.ndarray
    judge_data: DataConfig
    part: str
    seen: frozenset[str]
    tested: frozenset[str]
    notes: tuple[str, ...]
    pairs: RunPairs | None = None

    @property
    def shas(self) -> list[str]:
        """sha256 of each scored image."""
        return [self.data.shas[row] for row in self.rows]

    @property
    def groups(self) -> list[str] | None:
        """Micrograph of each scored image; None: each is its own."""
        return None if self.data.groups is None else [self.data.groups[row] for row in self.rows]

    @property
    def truth(self) -> str:
        """End of the scores' definitions: what the masks are, and at which size."""
        return truth_of(score_definitions(self.config.with_sections(data=self.judge_data))["dice"])

    @property
    def images(self) -> str:
        """Which real images there are, for definitions."""
        common = len(met(self.data, self.rows, self.seen))
        seen = f", {common} of which the {self.maker} has learned from" if common else ""
        if self.pairs is not None and not self.pairs.known:
            seen += ", and nobody tells what the maker has learned from"
        return f"{len(self.rows)} real images of part {self.part}{seen}"

    @property
    def maker(self) -> str:
        """Who made the images, in words."""
        return "generator" if self.pairs is None else "maker"

    def run(self, home: Home) -> RunFolder | None:
        """The run of this home that made the model, if it still holds those weights."""
        if self.ref.run_id is None or self.ref.run_id not in home.run_ids():
            return None
        run = RunFolder.open(home.runs, self.ref.run_id)
        same = self.ref.kind == "run" or run.read().weights_sha == self.ref.identity()["weights_sha"]
        return run if same else None


def fidelity_task(model: str | Path, data: str | Path | None, home: Home, *, allow_seen: bool) -> FidelityTask:
    """The task of a model and DATA (None: its own).

    Raises:
        UserError: a model with neither generator nor made pairs, or of unknown training images, fewer than 8 images or
            4 micrographs, images of the locked test, or, without `allow_seen`, images that its maker has learned from.
    """
    ref = resolve_model(model, home)
    config = ref.config(home)
    seen, tested, unknown = seen_by(ref, home)
    if config is None:
        raise UserError("training images of the model are not known", ref.text, "name a run of this home")
    loaded = ref.load()
    pairs = None if loaded.generator is not None else pairs_of_run(ref, config, home)
    if loaded.generator is None and pairs is None:
        mend = "name one that was trained with adversarial.epochs above 0, or whose phase 1 had rendered or extra pairs"
        raise UserError("model without generator", ref.text, mend)
    if pairs is not None:
        if len(pairs.images) < LEAST_IMAGES:
            what = f"fewer than {LEAST_IMAGES} made pairs to score ({len(pairs.images)})"
            raise UserError(what, ref.text, "train it on more of them")
        if len(set(mask_groups(pairs.masks) or range(LEAST_GROUPS))) < LEAST_GROUPS:
            raise UserError(f"made pairs show fewer than {LEAST_GROUPS} masks", ref.text, "train it on pairs of more")
        seen = set(pairs.seen)
        unknown = unknown if pairs.known or allow_seen else "nobody tells what the pairs were made from"
    if unknown is not None and (pairs is None or not allow_seen):
        mend = "name a run of this home, whose extra pairs and checkpoint tell what they were made from"
        raise UserError("training images of the model are not known", f"{ref.text} ({unknown})", mend)
    judge_part, scored_part = _others(config.data.split.part)
    notes: list[str] = []
    read = _data_read(config, data, home, notes)
    parts = {part: real_data(read, part) for part in (judge_part, scored_part)}
    prepared = prepare(parts[scored_part], home.cache)
    rows = np.sort(np.concatenate([prepared.split.train, prepared.split.validation]))
    _check_enough(prepared, rows, f"{read.path}, part {scored_part}")
    if {prepared.shas[row] for row in rows} & tested:
        mend = "the locked test is for `sage-ray evaluate` alone: give other images with --data"
        raise UserError("scored images meet the locked test", f"{ref.text}, {read.path}", mend)
    task = FidelityTask(
        ref, config, loaded.to(choose_device("auto")), prepared, rows, parts[judge_part], scored_part,
        frozenset(seen), frozenset(tested), tuple(notes), pairs,
    )  # fmt: skip
    return replace(task, notes=(*notes, *_check_unseen(task, allow_seen)))


def _data_read(config: ExperimentConfig, data: str | Path | None, home: Home, notes: list[str]) -> DataConfig:
    """The settings that read the real pairs; adds to the notes where it is not known which of them belong together."""
    own = config.data
    if data is None:
        return own
    # A path's own test fraction, not that of "all of it as one part".
    read = read_alike(own, str(data)).model_copy(update={"split": own.split.model_copy(update={"group": None})})
    if own.split.group is None:
        return read
    try:
        group_names(prepare(real_data(read, "all"), home.cache).stems, own.split.group)
    except UserError:
        notes.append(
            f"data.split.group={own.split.group} fits no names of {read.path}: each image counts as a micrograph"
        )
        return read
    return read.model_copy(update={"split": own.split})


def _check_enough(prepared: PreparedData, rows: np.ndarray, where: str) -> None:
    if len(rows) < LEAST_IMAGES:
        what = f"fewer than {LEAST_IMAGES} images to score ({len(rows)})"
        raise UserError(what, where, "give more images with --data")
    groups = prepared.groups
    count = len(rows) if groups is None else len({groups[row] for row in rows})
    if count < LEAST_GROUPS:
        what = f"fewer than {LEAST_GROUPS} micrographs to score ({len(rows)} crops of {count})"
        raise UserError(what, where, "give images of more micrographs with --data")


def met(data: PreparedData, rows: np.ndarray, seen: frozenset[str]) -> set[str]:
    """sha256 of those images, of the rows, which themselves or whose mask files are among the seen ones."""
    facts = [data.facts[row] for row in rows]
    return {fact.image_sha for fact in facts if fact.image_sha in seen or fact.mask_sha in seen}


def _check_unseen(task: FidelityTask, allow_seen: bool) -> list[str]:
    """A note if the maker has learned from scored images, which `allow_seen` allows."""
    common = len(met(task.data, task.rows, task.seen))
    if not common:
        return []
    what = f"the {task.maker} has learned from {common} of the {len(task.rows)} images that it would be scored on"
    if not allow_seen:
        mend = "train it with data.split.part=A, give other images with --data, or score it anyway with --allow-seen"
        raise UserError(what, f"{task.ref.text} (data.split.part={task.config.data.split.part})", mend)
    return [f"{what.replace('it would be', 'it is')}: these scores flatter it"]


def _others(own: str) -> tuple[str, str]:
    """The parts of the judge and of the scored images, of a generator that learned from part `own` (or from all)."""
    place = THIRDS.index(own) if own in THIRDS else 0
    return THIRDS[(place + 1) % 3], THIRDS[(place + 2) % 3]


def images_of_judge(task: FidelityTask, home: Home) -> frozenset[str]:
    """sha256 of the images that a judge of the task would be trained and chosen on."""
    return frozenset(seen_and_tested(prepare(task.judge_data, home.cache))[0])


def check_judge(seen: frozenset[str], where: str, task: FidelityTask, *, allow_seen: bool) -> list[str]:
    """A note if the judge has learned from images that the generator has learned from, which `allow_seen` allows.

    Args:
        seen: sha256 of the images that the judge was, or would be, trained or chosen on.
        where: names the judge, or its data.
        task: that it judges.
        allow_seen: whether it may share training images with the generator.

    Raises:
        UserError: it has seen scored or locked images, or, without `allow_seen`, training images of the generator.
    """
    mend = "name a judge that has not seen them, or give other images with --data"
    for common, of in (
        (met(task.data, task.rows, seen), f"the {len(task.rows)} scored images"),
        (task.tested & seen, "the images of the locked test"),
    ):
        if common:
            raise UserError(f"judge is trained or chosen on {len(common)} of {of}", where, mend)
    if not task.seen & seen:
        return []
    what = f"judge and {task.maker} have learned from {len(task.seen & seen)} common images"
    if not allow_seen:
        raise UserError(what, where, "name a judge of other images, or score it anyway with --allow-seen")
    return [what]
