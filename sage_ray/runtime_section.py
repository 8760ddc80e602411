"""The section of an ExperimentConfig that says how and where a run computes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator

from sage_ray.section_base import Count, NonNegative, Positive, PositiveInt, Section, word_or_number


class RuntimeConfig(Section):
    """How and where a run computes; no part of its identity. `numerics` (part of stage keys) is read from here."""

    workers: PositiveInt = 1
    """Processes that train one run together, each on its part of every batch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where a run computes; auto: on a GPU where there is one."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """auto: bf16 where the GPU computes in it natively, else fp32; resolved when a run or study begins, and stored.
    tf32 is fp32 with TF32 in convolutions and matrix products (GPUs alone); it is used only when named here."""
    deterministic: bool = False
    """On a GPU, kernels that add up in a fixed order: the same bits on the same model of GPU and version of torch,
    slower. A CPU does so anyway."""
    channels_last: bool = True
    """Keep the channels of a pixel side by side in memory, which is faster on most machines."""
    compile: bool = False
    """Let torch.compile translate the networks first: slow to start, faster per step on GPUs."""
    threads: Count = 0
    """CPU threads per worker; 0 follows the CPUs that the worker was given."""
    cpus_per_worker: Positive = 1
    """CPUs that Ray sets aside for each worker."""
    gpus_per_worker: Literal["auto"] | NonNegative = "auto"
    """auto: one where there is any; else 0 to 1, or a whole number. 0 is the CPU, unless `device` is cuda by name."""
    snapshot_seconds: NonNegative = 60.0
    """Least time between two snapshots of a stage; 0: one per epoch. One is also taken at the end of a stage
    and at a stop. Kept are the newest two, ends of stages, and epochs that the budgets of an open study name."""
    stage_store: str | None = None
    """Folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX of the stage store; None: `stages/` under the home."""
    max_retries: Count = 2
    """Restarts of a run whose worker was killed."""
    silence_minutes: Positive | None = None
    """A trial that reports no epoch for so long (5 minutes at its start) is ended and tried again; None: 20 times the
    study's longest epoch, at least 10 minutes, and an hour before the first epoch is known."""
    pictures: bool = True
    """Write curves, predictions, overlays and generated images when a run ends."""
    attention_every: Count = 0
    """Epochs between looks at the attention gates (maps of a few validation images, share of attention at boundaries);
    0: never. Epochs taken from another run's stage are not looked at again."""

    @field_validator("gpus_per_worker", mode="before")
    @classmethod
    def _word_or_number(cls, value: Any) -> Any:
        return word_or_number(value, ("auto",))

    @model_validator(mode="after")
    def _fraction(self) -> RuntimeConfig:
        gpus = self.gpus_per_worker
        if gpus != "auto" and gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"gpus_per_worker={gpus} is no share of one GPU and no whole number; use 0 to 1, or 2, 3, ..."
            )
        return self
