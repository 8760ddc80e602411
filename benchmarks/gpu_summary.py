"""What follows from the sections of `benchmarks/gpu.py`: ratios, hours of a schedule, and lines for a reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sage_ray.config import ExperimentConfig

BASE = "fp32 eager"


def medians(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Median seconds of a step by precision and mode ("bf16 compiled"), then by kind of step."""
    found: dict[str, dict[str, float]] = {}
    for section in record["sections"].values():
        result = section.get("result", {})
        for row in result.get("steps", []):
            if "s" in row:
                found.setdefault(f"{result['precision']} {result['mode']}", {})[row["kind"]] = row["s"]["median"]
    return found


def ratios(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How many times faster than fp32 eager each precision and mode took each kind of step, in this run."""
    found = medians(record)
    base = found.get(BASE, {})
    return {
        how: {kind: base[kind] / seconds for kind, seconds in times.items() if kind in base}
        for how, times in found.items()
        if how != BASE
    }


def schedule_hours(record: Mapping[str, Any], training_images: int) -> dict[str, Any]:
    """Hours of training steps of the paper's schedule by precision and mode, where all its kinds of step were timed.

    Phase 2 mixes in synthetic images with the probability of each epoch. Scoring, snapshots and start are not in it.
    """
    config = ExperimentConfig()
    steps = training_images // record["batch"]
    hours: dict[str, float] = {}
    for how, seconds in medians(record).items():
        if len(seconds) < 5:
            continue
        total = config.pretrain.epochs * steps * seconds["phase 1"]
        for epoch in range(config.adversarial.epochs):
            frozen = " frozen" if epoch < config.adversarial.freeze_epochs else ""
            chance = config.adversarial.mix_probability(epoch)
            mixed = chance * seconds[f"phase 2{frozen}, synthetic"] + (1 - chance) * seconds[f"phase 2{frozen}, real"]
            total += steps * mixed
        hours[how] = total / 3600
    epochs = f"{config.pretrain.epochs} + {config.adversarial.epochs} epochs"
    return {"of": f"{epochs} of {steps} steps ({training_images} images); training steps alone", "hours": hours}


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The result for a reader."""
    sections = record["sections"]
    facts = sections.get("device", {}).get("result", {})
    rows, columns = record["size"]
    yield f"Device: {facts.get('name', 'unknown')}, torch {facts.get('torch')}, CUDA {facts.get('cuda')}, cuDNN " + (
        f"{facts.get('cudnn')}; commit {record['commit']}"
    )
    yield f"Speaks of: {record['speaks_of']}. {rows}x{columns}, width {record['width']}, batch {record['batch']}."
    yield from _parity_lines(sections.get("parity", {}))
    yield ""
    yield from _step_lines(record)
    hours = (record.get("schedule_hours") or {}).get("hours")
    if hours:
        said = ", ".join(f"{how} {value:.2f} h" for how, value in hours.items())
        yield f"Schedule, {record['schedule_hours']['of']}: {said}"
    yield from _graph_lines(sections)
    yield from _kernel_lines(sections.get("kernels", {}).get("result", {}))
    broken = {name: s for name, s in sections.items() if s["state"] not in ("done", "not applicable")}
    for name, section in broken.items():
        errors = [f"{r['kind']}: {r['error']}" for r in section.get("result", {}).get("steps", []) if "error" in r]
        yield f"{name} is {section['state']}: {section.get('error') or '; '.join(errors)}"


def _parity_lines(section: Mapping[str, Any]) -> Iterator[str]:
    result = section.get("result")
    if not result:
        return
    yield f"Parity: {result['passed']} checks hold, {result['failed']} do not" + (
        "." if result["with_slow_check"] else " (steps of phase 2 are left to tests/golden on a CPU)."
    )
    for row in result["checks"]:
        if not row["passed"]:
            yield f"  {row['check']} in {row['dtype']}: {row['error']}"


def _step_lines(record: Mapping[str, Any]) -> Iterator[str]:
    heads = ("median", "min", "max")
    yield f"{'step':26} {'how':14} " + " ".join(f"{head:>9}" for head in heads) + "  steps/s   first     peak  ratio"
    for section in record["sections"].values():
        result = section.get("result", {})
        for row in result.get("steps", []):
            if "s" not in row:
                continue
            how = f"{result['precision']} {result['mode']}"
            ratio = record.get("ratios", {}).get(how, {}).get(row["kind"])
            peak = f"{row['peak_memory_gb']:.1f} GB" if row["peak_memory_gb"] is not None else "-"
            spread = " ".join(f"{row['s'][name] * 1e3:6.1f} ms" for name in heads)
            yield f"{row['kind']:26} {how:14} {spread} {row['steps_per_s']:8.2f} {row['first_step_s']:5.1f} s " + (
                f"{peak:>8} {'' if ratio is None else f'{ratio:.2f}':>6}"
            )
    if record.get("backend", "inductor") != "inductor":
        yield f"Compiled is backend {record['backend']} here, not inductor: its times say nothing of compiled kernels."
    for name, section in record["sections"].items():
        if section["state"] == "not applicable":
            yield f"{name}: not applicable ({section['error']})"


def _graph_lines(sections: Mapping[str, Any]) -> Iterator[str]:
    for phase, counts in sections.get("graphs", {}).get("result", {}).items():
        if phase == "at":
            continue
        limit = "; the limit of recompilations was reached" if counts["recompile_limit_hit"] else ""
        yield f"torch.compile, {phase}: {counts['graphs']} graphs, {counts['graph_breaks']} breaks{limit}"
        for reason, count in counts["reasons"].items():
            yield f"  {count} times: {reason}"


def _kernel_lines(result: Mapping[str, Any]) -> Iterator[str]:
    for kind, found in result.get("phases", {}).items():
        cost = f"{found['all_ms_per_step']:.1f} ms a step in {found['all_calls_per_step']:.0f} calls"
        yield f"Costliest {found['what']}, {kind}, {result['precision']}: {cost}"
        for kernel in found["kernels"]:
            name = kernel["name"] if len(kernel["name"]) <= 88 else kernel["name"][:85] + "..."
            yield f"  {kernel['ms_per_step']:8.2f} ms {kernel['share']:5.1%} {kernel['calls_per_step']:6.0f} x {name}"
