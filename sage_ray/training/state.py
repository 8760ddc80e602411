"""TrainState: all that resumes. Draws are keyed by epoch and sample, so there is no generator state to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sage_ray.models.norm import copy_network
from sage_ray.training.learning_rate import LearningRate
from sage_ray.training.replay_pool import ReplayPool
from sage_ray.training.report import EpochReport


@dataclass
class Best:
    """The best epoch of the phase so far by the evaluation metric, and the weights it had."""

    phase_epoch: int = 0
    score: float = float("-inf")
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class TrainState:
    """Networks, optimizers, learning-rate rule, EMA, counters and best-so-far of one phase of a run.

    `networks` holds `segmenter` in phase 1, and those of the system (`system_rules.NETWORKS`) in phase 2. `history`
    holds the reports of all epochs of the run so far, phase 1 included.
    """

    phase: str
    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Adam]
    learning_rate: LearningRate
    ema_decay: float
    ema: nn.Module | None = None
    phase_epoch: int = 0
    synthetic_steps: int = 0
    generator_updates: int = 0
    best: Best = field(default_factory=Best)
    history: list[EpochReport] = field(default_factory=list)
    earlier_drops: dict[str, list[int]] = field(default_factory=dict)
    computed_on: list[str] = field(default_factory=list)
    """Where epochs of the run so far were computed, in order (`training.context.computed_on`)."""
    pools: dict[str, ReplayPool] = field(default_factory=dict)
    """Fakes of before by kind ("image", "mask"), where the system has such pools."""

    def __post_init__(self) -> None:
        if self.ema_decay and self.ema is None:
            self.ema = copy_network(self.networks["segmenter"])
            self.ema.requires_grad_(False)

    def follow(self, earlier: TrainState) -> None:
        """Take over what a run has behind it from the state of its earlier phase: reports, drops, places."""
        self.history = earlier.history
        self.computed_on = list(earlier.computed_on)
        self.earlier_drops = {**earlier.earlier_drops, earlier.phase: earlier.learning_rate.drops}

    @property
    def evaluated(self) -> nn.Module:
        """The segmenter that is scored: the moving average where there is one, else the trained one."""
        return self.networks["segmenter"] if self.ema is None else self.ema

    def update_ema(self) -> None:
        """Move the averaged weights a step towards the segmenter's.

        Batch statistics stay as they are: those of the trained weights are wrong for the averaged ones, which get their
        own at the end of the epoch (`averaging.estimate_statistics`).
        """
        if self.ema is None:
            return
        segmenter = self.networks["segmenter"]
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(segmenter.parameters()), 1 - self.ema_decay)

    def remember_best(self, score: float) -> None:
        """Keep copies of the product's weights if `score` is the phase's highest so far."""
        if score > self.best.score:
            weights = {k: v.detach().clone() for k, v in self.product_weights("last").items()}
            self.best = Best(self.phase_epoch, score, weights)

    def product_weights(self, choice: str) -> dict[str, Tensor]:
        """Weights of segmenter and generator, `segmenter.NAME` and `generator.NAME`, as far as there are any.

               Choice `best` or `last`.
        With a moving average, the segmenter is the averaged one.
        """
        if choice == "best" and self.best.weights:
            return self.best.weights
        weights: dict[str, Tensor] = {}
        if "segmenter" in self.networks:
            weights |= {f"segmenter.{k}": v for k, v in self.evaluated.state_dict().items()}
        if "generator" in self.networks:
            weights |= {f"generator.{k}": v for k, v in self.networks["generator"].state_dict().items()}
        return weights

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name; nothing is copied."""
        found: dict[str, Tensor] = {}
        for name, network in self.networks.items():
            found |= {f"network.{name}.{k}": v for k, v in network.state_dict().items()}
        if self.ema is not None:
            found |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                found |= {f"optimizer.{name}.{index}.{k}": v for k, v in moments.items()}
        found |= {f"pool.{name}": pool.held for name, pool in self.pools.items() if pool.held is not None}
        return found | {f"best.{k}": v for k, v in self.best.weights.items()}

    def scalars(self) -> dict[str, Any]:
        """All plain data of the state, JSON-able."""
        return {
            "phase": self.phase,
            "phase_epoch": self.phase_epoch,
            "synthetic_steps": self.synthetic_steps,
            "generator_updates": self.generator_updates,
            "best_epoch": self.best.phase_epoch,
            "best_score": self.best.score if self.best.weights else None,
            "learning_rate": self.learning_rate.state(),
            "earlier_drops": self.earlier_drops,
            "history": [report.as_dict() for report in self.history],
            "computed_on": self.computed_on,
        }

    def load(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Go on from `tensors()` and `scalars()` of a state of the same phase and config."""
        device = next(next(iter(self.networks.values())).parameters()).device
        groups = _by_prefix(tensors)
        for name, network in self.networks.items():
            network.load_state_dict(weights_of(groups["network"], name))
        if self.ema is not None:
            self.ema.load_state_dict(groups["ema"])
        for name, optimizer in self.optimizers.items():
            _load_moments(optimizer, weights_of(groups.get("optimizer", {}), name))
        for name, pool in self.pools.items():
            held = groups.get("pool", {}).get(name)
            pool.held = None if held is None else held.to(device, copy=True)
        best = {k: v.to(device) for k, v in groups.get("best", {}).items()}
        score = scalars["best_score"]
        self.best = Best(scalars["best_epoch"], float("-inf") if score is None else score, best)
        self.phase_epoch = scalars["phase_epoch"]
        self.synthetic_steps = scalars["synthetic_steps"]
        self.generator_updates = scalars["generator_updates"]
        self.earlier_drops = scalars["earlier_drops"]
        self.history = [EpochReport.from_dict(plain) for plain in scalars["history"]]
        self.computed_on = list(scalars.get("computed_on", []))
        self.learning_rate.load(scalars["learning_rate"])


def weights_sha(weights: dict[str, Tensor]) -> str:
    """sha256 over the tensors' bytes in name order."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def weights_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one network, or of one optimizer: those named NAME.REST, under REST."""
    return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}


def _by_prefix(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        prefix, rest = name.split(".", 1)
        groups.setdefault(prefix, {})[rest] = tensor
    return groups


def _load_moments(optimizer: torch.optim.Adam, moments: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in moments.items():
        index, kind = key.split(".", 1)
        parameter = parameters[int(index)]
        # Stored moments are contiguous; a fused optimizer walks through them in the parameter's order of memory.
        if kind != "step":
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        state.setdefault(int(index), {})[kind] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
