"""What is known of a run: where it belongs, how far it came, what it was made from; record.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_ray.notebook_view import NotebookView

if TYPE_CHECKING:
    import pandas as pd

    from sage_ray.stages.store import StageStore


FORMAT_VERSION = 1


State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL", "INTERRUPTED"]


FINISHED: State = "COMPLETE"


def unknown_pairs(extra_pairs: Mapping[str, Any] | None) -> str | None:
    """What is said beside every score of a run whose extra pairs come from nobody knows where; None of any other."""
    if not extra_pairs or extra_pairs.get("lineage") != "unknown":
        return None
    source = extra_pairs.get("source")
    return f"extra pairs of unknown lineage ({source}): they may know images of the locked test"


def pairs_being_made(state: str, extra_pairs: Mapping[str, Any] | None) -> str | None:
    """ "trains preset tiny_sage_gan first, epoch 3 of 24", of a running run that does; None of any other."""
    now = (extra_pairs or {}).get("now") if state == "RUNNING" else None
    if not now:
        return None
    if now["phase"] == "pairs":
        return "makes its extra pairs"
    return f"trains {now['maker']} first, epoch {now['epoch']} of {now['epochs']}"


class RunLabels(BaseModel):
    """Where a run belongs. `parent` names the study (or final training) whose MLflow run holds it; default: `study`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str | None = None
    trial: int | None = None
    arm: str | None = None
    fold: int | None = None
    parent: str | None = None


class RunRecord(NotebookView, BaseModel):
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
    parts: dict[str, int] = {}
    """Images of each part of the split: train, validation, test, unlabelled."""
    stage_keys: dict[str, str] = {}
    pair_stages: dict[str, str] = {}
    """Stages that its extra pairs need: phases that are trained for them, and `pairs`."""
    numerics: dict[str, Any] = {}
    computed_on: list[str] = []
    """Model of the GPU (or "CPU") and version of torch of all its epochs, stored ones too, in order."""
    commit: str | None = None
    dirty: bool | None = None
    environment: str = "artifacts/environment.json"
    epoch: int = 0
    """Last epoch reported, from 1 over all stages: rendering, phase 1, phase 2."""
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
    extra_pairs: dict[str, Any] | None = None
    """What phase 1 was trained on beside real pairs: source, key, pairs, share, maker, lineage ("known" or "unknown"),
    and the epochs that were trained for them, which are none of the run's. None: real pairs alone. `seconds` are those
    of all these epochs and of making the pairs, whoever did it; `spent_seconds` are those that this run spent on it,
    over all attempts, a part of the record's own `seconds`. While it does so `now` says how far it is: maker, phase,
    epoch, epochs."""
    scoring: str | None = None
    """Precision that images were scored in, validation and test alike; None: see `training.evaluate`."""
    test_reads: int = 0
    created: str = ""
    updated: str = ""

    def frame(self) -> pd.DataFrame:
        """Validation scores of the selected epoch, else of the last one: score, value. `metrics` has losses, too."""
        import pandas as pd

        found = (self.selected_metrics or self.metrics).items()
        return pd.DataFrame([one for one in found if one[0].startswith("val/")], columns=["score", "value"])

    def headline(self) -> str:
        """Name and state of the run, and how far it is."""
        at = f", selected epoch {self.selected_epoch}" if self.selected_epoch else ""
        why = f" ({self.error})" if self.error else ""
        return f"{self.run_id} {self.state}{why}: {self.epoch} epochs{at}, {self.seconds:.1f} s"

    @property
    def unknown_pairs(self) -> str | None:
        """What the run says of extra pairs that nobody tells the lineage of; None if it has none such."""
        return unknown_pairs(self.extra_pairs)

    @property
    def pair_seconds(self) -> float:
        """Seconds in which the run's extra pairs were made by whoever did it; 0 if it has none, or nobody knows."""
        return float((self.extra_pairs or {}).get("seconds") or 0.0)

    @property
    def pair_seconds_spent(self) -> float:
        """Seconds that the run itself has spent on its extra pairs so far, over all attempts."""
        return float((self.extra_pairs or {}).get("spent_seconds") or 0.0)

    @property
    def makes_pairs(self) -> str | None:
        """What a run does that is not yet at its own first epoch, in words; None of any other."""
        return pairs_being_made(self.state, self.extra_pairs)

    @property
    def finished(self) -> bool:
        """Whether the run is COMPLETE: nothing is left to train."""
        return self.state == FINISHED

    def stored_in(self, store: StageStore) -> Callable[[str, int], bool]:
        """Tells whether a stage store has a phase of this run up to a number of epochs."""
        return lambda phase, epochs: store.latest(self.stage_keys[phase], epochs) == epochs

    def pairs_stored_in(self, store: StageStore) -> Callable[[str, int], bool]:
        """Tells whether a stage store has a stage that this run's extra pairs need up to a number of epochs."""
        keys = self.pair_stages
        return lambda stage, epochs: stage in keys and store.latest(keys[stage], epochs) == epochs
