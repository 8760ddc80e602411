"""One command that says what sage_ray does on a GPU: parity, seconds of a step, kernels, memory; one JSON.

    python benchmarks/gpu.py            # 512x768, full width, batch 2; under 9 minutes on one GPU
    python benchmarks/gpu.py --small    # the same on a CPU at 32x48, width 4: shows that it works, not how fast it is

It needs Python 3.11, torch 2.11, numpy, pydantic, kornia and safetensors alone. Sections run in processes of their own
with a time limit each: one that fails, hangs or crashes is recorded with its error, and the others still run. The JSON
is written anew after each, to benchmarks/results/gpu.json, or to gpu.json in the folder that `OUT` names.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

FORMAT = 1
LIMIT_S = {False: 500.0, True: 530.0}  # by whether it is small: then a minute on an idle machine
RESERVE_S = 3.0  # for ending a process and writing the file
# Processes in the order of what matters most; a section with its limit in seconds.
FULL = (
    {"device": 30, "graphs": 45},
    {"parity": 80},
    {"eager_bf16": 60, "kernels": 40},
    {"eager_tf32": 60},
    {"eager_fp32": 90},
    {"compiled_bf16": 170},
    {"compiled_tf32": 110},
    {"compiled_fp32": 110},
)
SMALL = (
    {"device": 20, "graphs": 120, "parity": 120},
    {"eager_fp32": 80, "eager_bf16": 80, "eager_tf32": 5, "kernels": 80},
    {"compiled_fp32": 120, "compiled_bf16": 120, "compiled_tf32": 5},
)
PERCEPTUAL = "VGG19 of its published shapes with random weights: nothing is downloaded, and a step costs the same"


@dataclass(frozen=True)
class Plan:
    """What this command runs: the options, the processes with their sections, and when it must end."""

    options: argparse.Namespace
    groups: tuple[dict[str, int], ...]
    deadline: float


def main() -> int:
    """Exit code: 0 if every section that applies was measured whole, 1 if some were not (the JSON says why)."""
    options = parsed()
    if options.child:
        return run_child(options)
    if why := no_device(options.device):
        print(f"benchmarks/gpu.py: {why}", file=sys.stderr)
        return 2
    groups = SMALL if options.small else FULL
    if options.only:
        wanted = options.only.split(",")
        groups = tuple(chosen for group in groups if (chosen := {k: v for k, v in group.items() if k in wanted}))
    plan = Plan(options, groups, time.monotonic() + (options.limit_s or LIMIT_S[options.small]))
    record = header(options)
    path = result_path(options)
    for group in groups:
        run_group(plan, group, record)
        write(path, record | summary_of(record, options))
    print_summary(json.loads(path.read_text(encoding="utf-8")), path)
    states = {section["state"] for section in record["sections"].values()}
    return 0 if states <= {"done", "not applicable"} else 1


def parsed() -> argparse.Namespace:
    """The options, sizes of `--small` filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="CPU, 32x48, width 4: shows that everything works")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda, with --small cpu")
    parser.add_argument("--size", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="default: 512 768")
    parser.add_argument("--width", type=int, help="channels of the first level; default: 64")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, help="timed steps of each kind; default: 15")
    parser.add_argument("--warm-up", type=int, help="steps before them; default: 3")
    parser.add_argument("--backend", help="of torch.compile; default: inductor, with --small aot_eager (no kernels)")
    parser.add_argument("--limit-s", type=float, help=f"seconds for everything; default: {LIMIT_S[False]:.0f}")
    parser.add_argument("--only", metavar="SECTIONS", help="some sections alone, with commas between them")
    parser.add_argument("--training-images", type=int, default=126, help="for hours of a schedule; the paper's: 126")
    parser.add_argument("--commit", help="of the code, where there is no git to ask")
    parser.add_argument("--into", type=Path, help="the JSON to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--until-s", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    small = {"device": "cpu", "size": (32, 48), "width": 4, "steps": 2, "warm_up": 1, "backend": "aot_eager"}
    full = {"device": "cuda", "size": (512, 768), "width": 64, "steps": 15, "warm_up": 3, "backend": "inductor"}
    for name, value in (small if options.small else full).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    known = {name for group in FULL for name in group}
    unknown = set((options.only or "").split(",")) - known - {""}
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}: there are {', '.join(sorted(known))}")
    return options


def no_device(name: str) -> str | None:
    """Why this command cannot run here; None if it can."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        return "no GPU here; --small shows on a CPU that everything works"
    return None


def header(options: argparse.Namespace) -> dict[str, Any]:
    """What stands above the sections: machine, commit, command, sizes."""
    from benchmarks.record import circumstances

    facts = circumstances()
    if options.commit:
        facts["commit"] = options.commit
    setup = {name: getattr(options, name) for name in ("size", "width", "batch", "steps", "warm_up", "backend")}
    speaks_of = "CPU sizes alone: no number here says anything of a GPU" if options.small else "this device"
    return {"format": FORMAT, "speaks_of": speaks_of} | facts | {"perceptual": PERCEPTUAL, **setup, "sections": {}}


def result_path(options: argparse.Namespace) -> Path:
    """Where the JSON goes: `--into`, else gpu.json (small: gpu_small.json) in `OUT` or benchmarks/results."""
    folder = Path(os.environ.get("OUT") or REPO / "benchmarks" / "results")
    path: Path = options.into or folder / ("gpu_small.json" if options.small else "gpu.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def run_group(plan: Plan, group: dict[str, int], record: dict[str, Any]) -> None:
    """Run some sections in one process and put what they leave into the record."""
    left = plan.deadline - time.monotonic() - RESERVE_S
    if left < min(10.0, sum(group.values())):
        found = {name: {"state": "left out", "error": "no time was left"} for name in group}
    else:
        found = _child(plan, group, min(left, sum(group.values())))
    record["sections"] |= found
    for name, section in found.items():
        print(f"{name}: {section['state']} {section.get('error', '')}".rstrip(), flush=True)


def _child(plan: Plan, group: dict[str, int], limit: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        into, said = Path(folder) / "sections.json", Path(folder) / "said.txt"
        words = [*sys.argv[1:], "--child", ",".join(f"{k}={v}" for k, v in group.items())]
        words += ["--into", str(into), "--until-s", f"{limit:.1f}"]
        # A fresh cache: compiling costs what it costs a new user.
        surroundings = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "inductor")}
        with said.open("w") as stream:
            child = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), *words], stdout=stream, stderr=subprocess.STDOUT,
                env=surroundings, start_new_session=True,
            )  # fmt: skip
            ended = _wait(child, limit)
        found = json.loads(into.read_text(encoding="utf-8")) if into.is_file() else {}
        tail = " ".join(said.read_text(encoding="utf-8", errors="replace").split())[-400:]
    how = f"ended after its limit of {limit:.0f} s" if not ended else f"process ended with {child.returncode}: {tail}"
    for name in group:
        section = found.setdefault(name, {"state": "not begun"})
        if section["state"] in ("running", "not begun"):
            section |= {"state": "cut" if section["state"] == "running" else "left out", "error": how}
    return found


def _wait(child: subprocess.Popen[bytes], limit: float) -> bool:
    """Whether the process ended by itself; if not, it and what it started are killed."""
    try:
        child.wait(limit)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def run_child(options: argparse.Namespace) -> int:
    """In a process of its own: the sections of a group, each result written as it comes."""
    began = time.monotonic()
    from benchmarks.gpu_sections import SECTIONS, NotApplicable, said
    from benchmarks.gpu_steps import Sizes

    rows, columns = options.size
    sizes = Sizes(
        rows, columns, options.width, options.batch, options.steps, options.warm_up, options.device, options.backend
    )
    found: dict[str, Any] = {}
    for word in options.child.split(","):
        name, _, budget = word.partition("=")
        started = time.monotonic()
        # A section stops by itself a little before it would be cut.
        until = min(started + 0.9 * float(budget), began + options.until_s - RESERVE_S)
        section = found[name] = {"state": "running", "budget_s": float(budget)}
        write(options.into, found)
        try:
            for result in SECTIONS[name](sizes, until):
                section |= {"seconds": time.monotonic() - started, "result": result}
                write(options.into, found)
            errors = [row for row in section.get("result", {}).get("steps", []) if "error" in row]
            section["state"] = "partly" if errors else "done"
        except NotApplicable as why:
            section |= {"state": "not applicable", "error": str(why)}
        except TimeoutError as why:
            section |= {"state": "partly", "error": str(why)}
        except Exception as error:
            section |= {"state": "failed", "error": said(error)}
        section["seconds"] = time.monotonic() - started
        write(options.into, found)
    return 0


def write(path: Path, record: dict[str, Any]) -> None:
    """Replace a JSON file at once, so that a reader always finds a whole one."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)


def summary_of(record: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Ratios and hours of the schedule, as far as the sections go."""
    from benchmarks.gpu_summary import ratios, schedule_hours

    hours = None if options.small else schedule_hours(record, options.training_images)
    return {"ratios": ratios(record), "schedule_hours": hours}


def print_summary(record: dict[str, Any], path: Path) -> None:
    """The result in lines for a reader."""
    from benchmarks.gpu_summary import lines

    print()
    print("\n".join(lines(record)))
    print(f"\nresult: {path}")


if __name__ == "__main__":
    sys.exit(main())
