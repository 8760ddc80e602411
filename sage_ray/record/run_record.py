"""What is known of a run: where it belongs, how far it came, what it was made from; record.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from sage_ray.stages.store import StageStore


FORMAT_VERSION = 1


State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL", "INTERRUPTED"]


FINISHED: State = "COMPLETE"


class RunLabels(BaseModel):
    """Where a run belongs. `parent` names the study (or final training) whose MLflow run holds it; default: `study`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str | None = None
    trial: int | None = None
    arm: str | None = None
    fold: int | None = None
    parent: str | None = None


class RunRecord(BaseModel):
    """`record.json`: identity, state and result of one run (one seed)."""

    model_config = ConfigDict(extra="ignore")

    format_version: int = FORMAT_VERSION
    run_id: str
    study: str | None = None
    trial: int | None = None
    arm: str | None = None
    parent: str | None = None
    seed: int
    fold: int | None = None
    attempt: int = 0
    """Times that training was started; above 1 when it went on after a crash or an interruption."""
    state: State = "RUNNING"
    error: str | None = None
    """One line; the full trace is in error.txt."""
    config_hash: str
    data_fingerprint: str | None = None
    split_id: str | None = None
    stage_keys: dict[str, str] = {}
    numerics: dict[str, Any] = {}
    computed_on: list[str] = []
    """Model of the GPU (or "CPU") and version of torch of all its epochs, stored ones too, in order."""
    commit: str | None = None
    dirty: bool | None = None
    environment: str = "artifacts/environment.json"
    epoch: int = 0
    """Last epoch reported, from 1 over both phases."""
    selected_epoch: int | None = None
    metrics: dict[str, float | None] = {}
    """Numbers of the last report (None: not finite); `selected_metrics` are those of the selected epoch."""
    selected_metrics: dict[str, float | None] = {}
    seconds: float = 0.0
    """Wall time of training and of writing its results, over all attempts."""
    gpu_seconds: float = 0.0
    """`seconds` times the GPUs held; 0 on a CPU."""
    synthetic_steps: int = 0
    generator_updates: int = 0
    reused_epochs: int = 0
    """Epochs taken from the stage store in the last attempt."""
    lr_drops: dict[str, list[int]] = {}
    weights_sha: str | None = None
    parameters: dict[str, int] = {}
    """Trainable numbers of the segmenter, and of the generator if there is one."""
    scoring: str | None = None
    """Precision that images were scored in, validation and test alike; None: see `training.evaluate`."""
    test_reads: int = 0
    created: str = ""
    updated: str = ""

    @property
    def finished(self) -> bool:
        """Whether the run is COMPLETE: nothing is left to train."""
        return self.state == FINISHED

    def stored_in(self, store: StageStore) -> Callable[[str, int], bool]:
        """Tells whether a stage store has a phase of this run up to a number of epochs."""
        return lambda phase, epochs: store.latest(self.stage_keys[phase], epochs) == epochs
