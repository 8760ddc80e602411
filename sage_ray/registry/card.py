"""The model card: what a registered model is, what it was made from, how it did on unseen images, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage_ray.config import ExperimentConfig
from sage_ray.evaluation.score_tables import PRIMARY, ScoreLine
from sage_ray.section_base import SystemName

SYSTEMS: dict[SystemName, str] = {
    "sage_gan": "SAGE-GAN",
    "f_ancgan": "F-ANcGAN",
    "cyclegan": "CycleGAN",
    "gan": "GAN",
}


@dataclass(frozen=True)
class CardFacts:
    """What the card tells beside the scores."""

    model_name: str
    final_id: str
    run_id: str
    study: str | None
    trial: int | None
    rule: str
    seeds: tuple[int, ...]
    config: ExperimentConfig
    fingerprint: str
    test_set: str
    images: Mapping[str, int]
    """Number of images trained on and tested on: keys `train`, `test`."""
    commit: str | None
    weights_sha: str | None
    has_generator: bool
    packed: tuple[int, ...]
    """Seeds whose segmenters the package holds, the registered one first."""
    segmenter_bytes: int
    """Size of one of them."""


def score_text(line: ScoreLine) -> str:
    """Such as ".912 [.880, .944]", or the mean alone where there is no interval."""
    if line.low is None or line.high is None:
        return f"{line.mean:.4f}"
    return f"{line.mean:.4f} [{line.low:.4f}, {line.high:.4f}]"


def model_card(facts: CardFacts, scores: Mapping[str, ScoreLine]) -> str:
    """The card in Markdown."""
    config = facts.config
    origin = f"study `{facts.study}`, trial {facts.trial}" if facts.study else "a given config"
    size = " x ".join(str(side) for side in config.data.image_size)
    lines = [
        f"# {facts.model_name}",
        "",
        f"{_system(facts)}. Trained by sage_ray as `{facts.final_id}` from {origin}.",
        "",
        "## Use",
        "```python",
        "import mlflow, numpy as np",
        f'model = mlflow.pyfunc.load_model("models:/{facts.model_name}@champion")',
        "probability = model.predict(images)                        # (N,H,W) uint8 -> (N,H,W) float32 in [0,1]",
        'mask = model.predict(images, params={"task": "mask"})      # uint8 in {0,1}',
    ]
    if len(facts.packed) > 1:
        lines += [
            'vote = model.predict(images, params={"task": "mask", "seeds": "all"})',
            'doubt = model.predict(images, params={"task": "disagreement"})     # float32 in [0,0.5]',
        ]
    if facts.has_generator:
        lines.append('image = model.predict(masks, params={"task": "generate", "seed": 0})   # uint8')
    lines += [
        "```",
        "Images are stretched to the full grey range and seen at the scale of training, at which the median training",
        f"image had {size} pixels; larger ones go through in tiles. Results have the image's own size.",
        "",
        "## Seeds inside",
        *_inside(facts),
        "",
        "## Data",
        _trained_on(config, facts.images["train"]),
        f"- {facts.images['test']} locked test images",
        f"- data fingerprint `{facts.fingerprint}`, test set `{facts.test_set}`",
        f"- source `{config.data.path}`{_extra_pairs(config)}",
        "",
        "## Scores on the locked test set",
        _seeds_text(facts.seeds),
        "",
        *_score_table(scores),
        "",
        "## Choice of the configuration",
        facts.rule,
        "",
        "## Limits",
        "- The test images come from the same collection as the training images; other microscopes, magnifications and",
        "  particle shapes are untested.",
        "- The mask is semantic: particles that touch are one region of it. `sage-ray predict` splits them.",
        "- Intervals speak of images like the tested ones; the registered weights are one seed of those listed.",
        *_generator_limit(facts.has_generator),
        "",
        "## Provenance",
        f"- run `{facts.run_id}`, weights sha256 `{facts.weights_sha}`, commit `{facts.commit}`",
        f"- config hash `{config.config_hash()}`; whole config in `artifacts/provenance.json`",
        "- code: MIT licence; the weights inherit the terms of the training images",
    ]
    return "\n".join(lines) + "\n"


def _system(facts: CardFacts) -> str:
    """What was trained: the system of phase 2, or of phase 1 alone its network, and which parts the package has."""
    config = facts.config
    name = SYSTEMS[config.adversarial.system] if config.adversarial.num_epochs else config.segmenter.name
    parts = "segmenter (image to mask)" + (" and generator (mask to image)" if facts.has_generator else "")
    return f"{name} for particle micrographs: {parts}"


def _trained_on(config: ExperimentConfig, images: int) -> str:
    if not config.render.train_on_pairs:
        return f"- {images} images trained on (train and validation parts)"
    fitted = config.render.sizes == "fitted" and config.render.sizes_table is None
    masks = "the sizes of particles alone were taken" if fitted else "nothing was taken"
    return (
        f"- {config.render.pairs} rendered pairs trained on (engine {config.render.engine}), whose materials were "
        f"learnt from {images} images (train and validation parts); of their masks {masks}"
    )


def _extra_pairs(config: ExperimentConfig) -> str:
    if not config.data.extra_pairs:
        return ""
    share = f"{config.pretrain.synthetic_share:.0%} of each batch of phase 1"
    return f"; extra pairs `{config.data.extra_pairs}`, {share}: `artifacts/provenance.json` says what they come from"


def _seeds_text(seeds: tuple[int, ...]) -> str:
    named = ", ".join(str(seed) for seed in seeds)
    return (
        f"Each of the seeds {named} was trained and scored once. Registered is seed {seeds[0]}, declared before "
        "training, not the best one."
    )


def _inside(facts: CardFacts) -> list[str]:
    first, *others = facts.packed
    size = f"{facts.segmenter_bytes / 1e6:.3g} MB"
    if not others:
        return [f"The segmenter of seed {first} ({size})."]
    named = f"{'those of seeds' if len(others) > 1 else 'that of seed'} {', '.join(map(str, others))}"
    return [
        f"The segmenter of seed {first}, which is used by default, beside it {named} ({size} for each seed).",
        "`sage-ray predict --seeds all` lets them vote: the mean of their probabilities decides, and their standard",
        "deviation says where they disagree. The scores below are those of single seeds; the vote has not been scored.",
    ]


def _score_table(scores: Mapping[str, ScoreLine]) -> list[str]:
    rows = ["| score | mean [interval] | images | seeds | definition |", "|---|---|---|---|---|"]
    rows += [
        f"| {name} | {score_text(line)} | {line.images} | {line.seeds} | {line.definition} |"
        for name, line in scores.items()
    ]
    levels = {line.level for line in scores.values() if line.level is not None}
    overs = sorted({line.over for line in scores.values() if line.level is not None})
    if not levels:
        return [*rows, "", f"No intervals: {scores[PRIMARY].over.partition(':')[0]}."]
    return [*rows, "", f"Intervals: {', '.join(f'{level:.0%}' for level in sorted(levels))}, over {'; '.join(overs)}."]


def _generator_limit(has_generator: bool) -> list[str]:
    if not has_generator:
        return ["- No generator: the configuration has no adversarial phase."]
    return [
        "- Generated images are training material, no measurements: they need not match their masks pixel by pixel.",
    ]


def description(card: str, limit: int = 4000) -> str:
    """The card, cut at a line end to what a registry keeps as a version's description."""
    if len(card) <= limit:
        return card
    return card[:limit].rpartition("\n")[0] + "\n...\n"


def provenance_of_model(facts: CardFacts, seen_shas: list[str], test_shas: list[str], split_id: str) -> dict[str, Any]:
    """Contents of provenance.json."""
    return {
        "format_version": 1,
        "final": facts.final_id,
        "run_id": facts.run_id,
        "study": facts.study,
        "trial": facts.trial,
        "seeds": list(facts.seeds),
        "config": facts.config.model_dump(mode="json"),
        "config_hash": facts.config.config_hash(),
        "fingerprint": facts.fingerprint,
        "split_id": split_id,
        "test_set": facts.test_set,
        "seen_shas": seen_shas,
        "test_shas": test_shas,
        "commit": facts.commit,
        "weights_sha": facts.weights_sha,
    }
