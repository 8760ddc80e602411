"""Which settings of an ExperimentConfig go together: what one section alone cannot tell.

Each rule raises ValueError with the settings, what is wrong with them and what to set instead.
"""

from __future__ import annotations

from sage_ray.pair_source import EXAMPLES, PairSource
from sage_ray.render_section import RenderConfig
from sage_ray.sections import (
    AdversarialConfig,
    DataConfig,
    EvaluationConfig,
    PretrainConfig,
    RuntimeConfig,
    SplitConfig,
)


def check_phases(pretrain: PretrainConfig, adversarial: AdversarialConfig, runtime: RuntimeConfig) -> None:
    """Something is trained, phase 1 has one origin, and the workers share a batch evenly."""
    if pretrain.num_epochs + adversarial.num_epochs == 0:
        raise ValueError(
            "pretrain.epochs and adversarial.epochs are both 0, and so are their steps; nothing would be trained"
        )
    if pretrain.checkpoint and pretrain.num_epochs:
        raise ValueError(
            "pretrain.checkpoint replaces phase 1: set pretrain.epochs to 0 beside it (pretrain.steps too)"
        )
    for phase, size in (("pretrain", pretrain.batch_size), ("adversarial", adversarial.batch_size)):
        if size % runtime.workers:
            raise ValueError(
                f"{phase}.batch_size {size} is global and must be a multiple of runtime.workers {runtime.workers}"
            )


def check_selection(
    split: SplitConfig, pretrain: PretrainConfig, adversarial: AdversarialConfig, evaluation: EvaluationConfig
) -> None:
    """Without a validation part nothing is chosen by a validation score."""
    if split.validation or split.folds:
        return
    if evaluation.select == "best":
        raise ValueError("without a validation part no epoch can be chosen: set evaluation.select to last or ema")
    if pretrain.num_epochs and adversarial.num_epochs and pretrain.handoff == "best":
        raise ValueError("without a validation part there is no best phase-1 epoch: set pretrain.handoff to last")
    if "plateau" in (pretrain.schedule.rule, adversarial.schedule.rule):
        raise ValueError("without a validation part rule plateau has no score: use constant, drops or poly")


def check_extra_pairs(data: DataConfig, pretrain: PretrainConfig) -> None:
    """Extra pairs and their share of a batch are given together, and phase 1, which takes them, is trained."""
    if not data.extra_pairs:
        if pretrain.synthetic_share:
            raise ValueError(
                f"pretrain.synthetic_share={pretrain.synthetic_share:g} without data.extra_pairs: {EXAMPLES}"
            )
        return
    PairSource.parse(data.extra_pairs)
    if not pretrain.synthetic_share:
        raise ValueError("data.extra_pairs without a share of the batches: set pretrain.synthetic_share above 0")
    if not pretrain.num_epochs:
        raise ValueError("pretrain.synthetic_share is a share of phase 1: set pretrain.epochs above 0 beside it")


def check_schedules(pretrain: PretrainConfig, adversarial: AdversarialConfig) -> None:
    """A polynomial learning rate has its total, and no phase is longer than that."""
    for phase, settings in (("pretrain", pretrain), ("adversarial", adversarial)):
        schedule = settings.schedule
        if schedule.rule != "poly" or not settings.num_epochs:
            continue
        if not schedule.total_epochs:
            raise ValueError(
                f"{phase}.schedule.rule poly needs its total: set {phase}.schedule.total_epochs, "
                f"such as {settings.num_epochs}"
            )
        if settings.num_epochs > schedule.total_epochs:
            raise ValueError(
                f"{phase} has {settings.num_epochs} epochs, more than {phase}.schedule.total_epochs "
                f"{schedule.total_epochs}, after which the learning rate is 0: raise the total with it"
            )


def check_rendering(render: RenderConfig, adversarial: AdversarialConfig) -> None:
    """Rendered pairs replace real ones in phase 1 alone: phase 2 compares with real images."""
    if render.train_on_pairs and adversarial.num_epochs:
        raise ValueError(
            "render.train_on_pairs trains phase 1 alone: set adversarial.epochs (and adversarial.steps) to 0, "
            "or train_on_pairs to false"
        )
    if render.train_on_pairs and not render.epochs:
        raise ValueError("render.train_on_pairs needs materials that have learnt: set render.epochs to at least 1")
