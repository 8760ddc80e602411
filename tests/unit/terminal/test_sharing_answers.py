"""What `plan` says of several trials per GPU."""

from __future__ import annotations

from dataclasses import replace

from sage_ray.search.plan import Plan
from sage_ray.search.planned_sharing import FastestShare, GpuSharing
from sage_ray.search.trials_per_gpu import TrialsOnGpu
from sage_ray.terminal.sharing_answers import sharing_lines

PLAN = Plan("first", 4, 4, 5, 20, 14, 0, exact=True, note="", device="cuda", gpu="NVIDIA H100", worker_hours=1.0)
ROWS = [
    TrialsOnGpu(1, "fits", None, 12.31, 12.31, {}, {}, 180.0, 1.0),
    TrialsOnGpu(2, "fits", None, 12.4, 24.8, {}, {}, 290.0, 1.614),
    TrialsOnGpu(3, "does_not_fit", "too much", 12.4, 37.2),
]
FOUND = GpuSharing(ROWS, 1, FastestShare(2, 0.5, 16, 3.08, 24.64), None, 40.0, 0.0, 0.1, [])


def test_a_table_and_the_fastest_share() -> None:
    assert sharing_lines(replace(PLAN, pilot=FOUND)) == [
        "several trials on one GPU, measured with the study's base (40.0 GB of memory; 10% stays free):",
        "  trials per GPU  memory per trial  epochs/h per GPU  verdict",
        "               1           12.3 GB            1.00 x  fits",
        "               2           12.4 GB            1.61 x  fits, fastest",
        "               3           12.4 GB                 -  does not fit: too much",
        "fastest: 2 trials per GPU, --set resources.gpu=0.5: the study takes about 3.1 h with 16 at once, "
        "24.6 GPU-hours",
    ]


def test_the_study_s_own_share_warnings_and_other_programs() -> None:
    own = replace(FOUND, trials_per_gpu=2, gpu_memory_others_gb=3.0, held_back=3, warnings=["2 do not fit"])
    head, *_, best, held, warning = sharing_lines(replace(PLAN, pilot=own))
    assert "40.0 GB of memory, 3.0 GB of it taken by other programs; 10% stays free" in head
    assert best.startswith("fastest: 2 trials per GPU, as the study has it: the study takes about 3.1 h")
    assert held.startswith("  3 trials per GPU would train faster still, but resources.cpu")
    assert warning == "warning: 2 do not fit"


def test_what_could_not_be_measured_and_unknown_hours() -> None:
    nothing = GpuSharing([TrialsOnGpu(1, "not_measured", "CUDA is busy")], 1, None, None, None, None, 0.1, [])
    head, _, row = sharing_lines(replace(PLAN, pilot=nothing))
    assert head == "several trials on one GPU, measured with the study's base:"
    assert row.endswith("-                 -  not measured: CUDA is busy")
    unknown = replace(FOUND, fastest=FastestShare(1, 1.0, None, None, None))
    assert sharing_lines(replace(PLAN, pilot=unknown))[-1] == "fastest: one trial per GPU, as the study has it"


def test_without_a_gpu_here_it_is_said_where_it_is_measured() -> None:
    away = replace(PLAN, gpu=None)
    assert sharing_lines(away) == [
        "trials per GPU: not measured, as no GPU is here; `plan --pilot` measures them on a machine with one"
    ]
    assert sharing_lines(replace(PLAN, device="cpu", gpu=None)) == [] == sharing_lines(PLAN)
