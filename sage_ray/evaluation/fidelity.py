"""`fidelity`: does a generated image show its mask, and does it look like a real one? Judged by who has seen neither.

The generator learned from one part of the images, the judge learns from another, and the masks of a third are given to
the generator (`data.split.part`). Images of the locked test are in none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sage_ray.config import stable_hash
from sage_ray.errors import UserError
from sage_ray.evaluation.fidelity_pictures import draw_pictures
from sage_ray.evaluation.fidelity_task import FidelityTask, check_judge, fidelity_task, images_of_judge
from sage_ray.evaluation.generated_pairs import draw_seed
from sage_ray.evaluation.generation_scores import SetDistances, score_line
from sage_ray.evaluation.image_features import JUDGE, ImageFeatures, judge_features, published_features
from sage_ray.evaluation.judge import Judge, named_judge, trained_judge
from sage_ray.evaluation.score_tables import ScoreLine
from sage_ray.evaluation.scored_images import ScoredImages, of_generator, of_pairs
from sage_ray.files import replacing, sha256_of, write_json
from sage_ray.followed import push
from sage_ray.locks import locked
from sage_ray.losses.perceptual import VGG19, VGG19Loss, cached_vgg19
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.metric_lines import finite
from sage_ray.record.model_reference import resolve_model
from sage_ray.training.context import choose_device

if TYPE_CHECKING:
    from sage_ray.watch import Watch

PART = "generated"
"""Part of the rows of per_image.parquet."""
RESULT = "fidelity.json"
DRAWS = 4
LPIPS_WEIGHTS = replace(VGG19, how_to_go_on="give a file with --lpips, or leave that out: the other scores need none")


@dataclass(frozen=True)
class CycleFidelity(NotebookView):
    """What `fidelity` found."""

    model: dict[str, Any]
    judge: dict[str, Any]
    data: str
    part: str
    """Part of the data whose masks were given to the generator."""
    paired: bool
    """Whether each image has the real image of its mask as partner; rendered and drawn ones have none."""
    images: int
    """Masks that were scored."""
    real_images: int
    """That sets are compared with."""
    draws: int
    seed: int
    size: tuple[int, int]
    scores: dict[str, ScoreLine]
    """`fidelity`, `null`; with real partners `ceiling`, `collusion` where the model has a segmenter, and the scores of
    pairs."""
    differences: dict[str, ScoreLine]
    """`below_ceiling` (ceiling minus fidelity) and `above_null` (fidelity minus null), paired by mask."""
    judge_on_real: ScoreLine
    """The judge's Dice on the real images; with real partners this is `ceiling`."""
    distances: SetDistances
    notes: list[str]
    per_mask: Path
    """Parquet file with each score of each mask and draw."""
    pictures: dict[str, Path] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row per score, difference and distance of sets: score, mean, low, high, definition."""
        lines = {**self.scores, **self.differences, "judge_on_real": self.judge_on_real}
        rows = [(name, line.mean, line.low, line.high, line.definition) for name, line in lines.items()]
        found, told = self.distances, self.distances.definitions
        rows += [
            (name, mmd.value, mmd.low, mmd.high, definition)
            for name, mmd, definition in (
                ("mmd", found.mmd, told["mmd"]),
                ("mmd_real_halves", found.real_halves, f"of two halves of the real images: {told['mmd']}"),
                ("mmd_gaussian", found.mmd_gaussian, told["mmd_gaussian"]),
            )
        ]
        return pd.DataFrame(rows, columns=["score", "mean", "low", "high", "definition"])

    def headline(self) -> str:
        """What was judged, and by whom."""
        what = f"{self.images} masks, {self.draws} draws of each" if self.paired else f"{self.images} made pairs"
        return f"{what} (part {self.part} of {self.data}), judge: {self.judge['text']}"

    def remarks(self) -> list[str]:
        """What the intervals are over, how fidelity is read, and what to keep in mind."""
        reading = "Read fidelity between null (another mask) and judge_on_real (real images): both are in the table."
        return [self.scores["fidelity"].over, reading, *self.notes]


def fidelity(
    model: str | Path,
    home: Home,
    *,
    data: str | Path | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    features: str = JUDGE,
    feature_weights: str | Path | None = None,
    lpips: str | Path | None = None,
    judge: str | Path | None = None,
    judge_epochs: int | None = None,
    allow_seen: bool = False,
    mirror: bool = True,
    watch: Watch | None = None,
) -> CycleFidelity:
    """Judge the generated images of a model by an independent segmenter, and compare them with the real ones.

    A run of the home keeps its scores (part `generated` of per_image.parquet) and artifacts/fidelity/; those of other
    models lie under evaluations/. Of a run without a generator whose phase 1 was trained on rendered or extra pairs,
    these pairs are judged: each by its own mask, and all of them as a set; they stand in artifacts/fidelity/ alone.

    Args:
        model: run id, folder or `models:/` URI of a model with a generator, or a run that was trained on made pairs.
        home: of the runs; the judge is trained there once, as a run of its own.
        data: real pairs that the generator has not learned from; None: the parts of its own data.
        draws: images that are generated from each mask; of made pairs as many for each real image are scored at most.
        seed: of them.
        features: judge, inception or dinov2: what sets of images are compared in.
        feature_weights: a file of those weights; None: an earlier download, else a download.
        lpips: a file of VGG19 weights, or "download"; None: LPIPS only where an earlier download is at hand.
        judge: a model that judges, instead of one that is trained.
        judge_epochs: of its training; None: a number of steps that is the same for all models.
        allow_seen: score a model that has learned from the scored images; the definitions of all its scores say so.
        mirror: send the judge's run to MLflow.
        watch: shown the judge's training.

    Raises:
        UserError: a model without generator or made pairs, or of unknown training images, one that has seen what it
            would be judged on, fewer than 8 images or 4 micrographs, features without weights, or a judge that is none.
    """
    _check_options(draws, seed, features, feature_weights)
    resolve_model(model, home)  # before anything is made for a model that is not there
    home.check_writable()
    task = fidelity_task(model, data, home, allow_seen=allow_seen)
    # All that can be refused is, before anything is trained.
    published = None if features == JUDGE else _published(features, feature_weights, home)
    perceptual = _perceptual(lpips, home)
    who = _judge(judge, task, home, allow_seen=allow_seen, epochs=judge_epochs, mirror=mirror, watch=watch)
    chosen = published or judge_features(who.model, who.training_images, who.text)
    if task.pairs is None:
        scored = of_generator(task, who, chosen, perceptual, draws=draws, seed=seed)
    else:
        scored = of_pairs(task, task.pairs, who, chosen, most=draws * len(task.rows), seed=seed)
    return _kept(_result(scored, task, who, home, seed=seed), scored, task, home)


def _check_options(draws: int, seed: int, features: str, feature_weights: str | Path | None) -> None:
    if draws < 1 or seed < 0:
        raise UserError("bad number", f"draws={draws}, seed={seed}", "draws is at least 1, seed at least 0")
    if features == JUDGE and feature_weights is not None:
        mend = "name the network that they are of: --features inception or dinov2"
        raise UserError("weights for the judge's features, which have their own", feature_weights, mend)


def _judge(
    judge: str | Path | None,
    task: FidelityTask,
    home: Home,
    *,
    allow_seen: bool,
    epochs: int | None,
    mirror: bool,
    watch: Watch | None,
) -> Judge:
    """The judge that is named or trained, and has seen none of what it may not."""
    if judge is not None:
        who = named_judge(judge, task.config, home)
    else:
        where = f"part {task.judge_data.split.part} of {task.judge_data.path}"
        check_judge(images_of_judge(task, home), where, task, allow_seen=allow_seen)
        who = trained_judge(task.config, task.judge_data, home, epochs=epochs, mirror=mirror, watch=watch)
    notes = check_judge(who.seen, who.ref.text, task, allow_seen=allow_seen)
    return replace(who, notes=(*who.notes, *notes))


def _published(features: str, weights: str | Path | None, home: Home) -> ImageFeatures:
    return published_features(features, weights, home.cache, choose_device("auto"))


def _perceptual(lpips: str | Path | None, home: Home) -> tuple[VGG19Loss | None, str]:
    """The VGG19 network and the check sum of its weights; (None, "") without."""
    if lpips is None and not cached_vgg19(home.cache).is_file():
        return None, ""
    path = None if lpips is None or str(lpips) == "download" else Path(lpips)
    weights = LPIPS_WEIGHTS.load(path, home.cache)
    sha = sha256_of(path) if path is not None else sha256_of(cached_vgg19(home.cache))
    return VGG19Loss(weights).to(choose_device("auto")), sha[:16]


def _result(scored: ScoredImages, task: FidelityTask, judge: Judge, home: Home, *, seed: int) -> CycleFidelity:
    folder = _folder(task, home)
    table, named, groups = scored.table, scored.definitions, scored.groups
    pairs = {"below_ceiling": ("ceiling", "fidelity"), "above_null": ("fidelity", "null")}
    return CycleFidelity(
        model=task.ref.identity(),
        judge={**judge.ref.identity(), "text": judge.text},
        data=task.judge_data.path,
        part=task.part,
        paired=scored.real is not None,
        images=len(scored.masks),
        real_images=len(task.rows),
        draws=scored.made.shape[1],
        seed=seed,
        size=(int(scored.made.shape[2]), int(scored.made.shape[3])),
        scores={name: score_line(values, groups, named[name]) for name, values in table.items()},
        differences={
            name: score_line(table[more] - table[less], groups, f"{more} minus {less}: {named[more]}")
            for name, (more, less) in pairs.items()
            if more in table
        },
        judge_on_real=scored.on_real,
        distances=scored.distances,
        notes=[*task.notes, *judge.notes, *scored.notes],
        per_mask=folder / "per_mask.parquet",
        pictures=draw_pictures(folder, table, scored.masks, scored.made, scored.real, scored.found, scored.stems),
    )


def _folder(task: FidelityTask, home: Home) -> Path:
    run = task.run(home)
    if run is not None:
        folder = run.artifacts / "fidelity"
    else:
        sha = task.ref.identity()["weights_sha"] or str(task.ref.folder)
        folder = home.path / "evaluations" / f"fidelity-{stable_hash([sha, task.shas])}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _kept(result: CycleFidelity, scored: ScoredImages, task: FidelityTask, home: Home) -> CycleFidelity:
    """The result; writes per_mask.parquet, fidelity.json and, for a run with a generator, rows of part `generated`."""
    folder, named, table = result.per_mask.parent, scored.definitions, scored.table
    groups: Sequence[str | None] = scored.groups or [None] * len(scored.shas)
    rows = [
        {
            "image_sha": sha, "stem": stem, "group": group, "draw": draw,
            "seed": str(draw_seed(result.seed, sha, draw)) if result.paired else None,
            "score": name, "definition": named[name], "value": float(values[n, draw]),
        }
        for name, values in table.items()
        for n, (sha, stem, group) in enumerate(zip(scored.shas, scored.stems, groups, strict=True))
        for draw in range(result.draws)
    ]  # fmt: skip
    with replacing(result.per_mask) as temporary:
        pd.DataFrame(rows).to_parquet(temporary, index=False)
    told = asdict(replace(result, per_mask=Path(), pictures={}))
    facts = {name: value for name, value in told.items() if name not in ("per_mask", "pictures")}
    write_json(folder / RESULT, finite({"format_version": 1, **facts}))
    run = task.run(home)
    # Pairs with masks of their own are no scores of the real images that all runs of a study share.
    if run is not None and result.paired:
        with locked(run.path / ".test.lock", timeout_s=600) as held:
            if not held:
                raise UserError("run is being scored", run.run_id, "wait for the other process")
            run.write_per_image(
                {
                    "part": PART, "checkpoint": task.config.evaluation.select, "image_sha": sha, "group": group,
                    "score": name, "definition": named[name], "value": float(values[n].mean()),
                }
                for name, values in table.items()
                for n, (sha, group) in enumerate(zip(scored.shas, groups, strict=True))
                if np.isfinite(values[n]).all()
            )  # fmt: skip
    if run is not None:
        push(run.path)
    push(folder)
    return result
