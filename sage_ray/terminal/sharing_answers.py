"""What `plan --pilot` says of several trials per GPU: memory, speed, and which number trains most epochs an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_ray.durations import hours_text, number_text

if TYPE_CHECKING:
    from sage_ray.search.plan import Plan
    from sage_ray.search.planned_sharing import GpuSharing
    from sage_ray.search.trials_per_gpu import TrialsOnGpu

COLUMNS = ("trials per GPU", "memory per trial", "epochs/h per GPU")


def sharing_lines(plan: Plan) -> list[str]:
    """What was measured of several trials per GPU, or, if no GPU is seen from here, where that is done."""
    if plan.pilot is not None:
        return [*_table(plan.pilot), *_fastest(plan.pilot), *(f"warning: {line}" for line in plan.pilot.warnings)]
    if plan.device == "cuda" and plan.gpu is None:
        return ["trials per GPU: not measured, as no GPU is here; `plan --pilot` measures them on a machine with one"]
    return []


def _table(found: GpuSharing) -> list[str]:
    head = "several trials on one GPU, measured with the study's base"
    if found.gpu_memory_gb is not None:
        others = found.gpu_memory_others_gb or 0.0
        taken = f", {others:.1f} GB of it taken by other programs" if others >= 0.05 else ""
        head += f" ({found.gpu_memory_gb:.1f} GB of memory{taken}; {found.memory_margin:.0%} stays free)"
    best = None if found.fastest is None else found.fastest.trials_per_gpu
    rows = [(*COLUMNS, "verdict"), *(_row(row, fastest=row.trials_per_gpu == best) for row in found.per_gpu)]
    widths = [len(column) for column in COLUMNS]
    cells = [[f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)] + [row[-1]] for row in rows]
    return [f"{head}:", *(("  " + "  ".join(row)).rstrip() for row in cells)]


def _row(row: TrialsOnGpu, *, fastest: bool) -> tuple[str, str, str, str]:
    memory = "-" if row.memory_per_trial_gb is None else f"{row.memory_per_trial_gb:.1f} GB"
    relative = row.relative_epochs_per_hour
    speed = "-" if relative is None else f"{relative:.2f} x"
    verdict = row.verdict.replace("_", " ") + (f": {row.reason}" if row.reason else "")
    return str(row.trials_per_gpu), memory, speed, verdict + (", fastest" if fastest else "")


def _fastest(found: GpuSharing) -> list[str]:
    best = found.fastest
    if best is None:
        return []
    many = "one trial per GPU" if best.trials_per_gpu == 1 else f"{best.trials_per_gpu} trials per GPU"
    how = (
        "as the study has it"
        if best.trials_per_gpu == found.trials_per_gpu
        else f"--set resources.gpu={best.resources_gpu:g}"
    )
    wall = "" if best.wall_hours is None else f"about {hours_text(best.wall_hours)}"
    slots = f" with {best.trials_at_once} at once" if best.trials_at_once and wall else ""
    held = "" if best.gpu_hours is None else f"{number_text(best.gpu_hours)} GPU-hours"
    takes = ", ".join(text for text in (wall + slots, held) if text)
    lines = [f"fastest: {many}, {how}" + (f": the study takes {takes}" if takes else "")]
    if found.held_back is not None:
        more = f"{found.held_back} trials per GPU would train faster still"
        lines.append(f"  {more}, but resources.cpu, the CPUs there are, or concurrency allow no more trials at a time")
    return lines
