"""Compares what two homes hold of the same studies: trials, runs, weights, stored stages and tables, to the last bit.

    python scripts/compare_homes.py HOME OTHER

A change that shall keep behaviour is shown so: run the tiny studies (`sage-ray ablate ablate_tiny --set concurrency=1`,
`sage-ray sweep search_tiny --set concurrency=1`, `make tables`) with the code before it and with the code after it,
into a home each, and compare the homes. With one trial at a time a study is the same each time; with more, what a
scheduler stops depends on which trial comes first.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

from sage_ray.record.home import Home
from sage_ray.search.study_status import status

CIRCUMSTANCES = ("seconds", "time_ms", "replayed")
"""What tells when and how an epoch came about, not what it computed."""
RECORD = (
    "state",
    "error",
    "epoch",
    "selected_epoch",
    "config_hash",
    "data_fingerprint",
    "split_id",
    "stage_keys",
    "weights_sha",
)
RECORD += ("numerics", "synthetic_steps", "generator_updates", "lr_drops")
MADE_BY = ("Made by", "Trained at", "%", "# Made by", "# Trained at")
"""Lines of a table that say when and by which command it was made start with one of these."""
SHOWN = 12


class Comparison:
    """Counts what was compared, by kind, and keeps a line for each difference."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.differences: dict[str, list[str]] = {}

    def equal(self, kind: str, where: str, here: Any, there: Any) -> None:
        """Count one comparison of a kind; keep a line if the two are not equal."""
        self.counts[kind] += 1
        if here != there:
            self.differences.setdefault(kind, []).append(f"{where}: {str(here)[:80]} / {str(there)[:80]}")

    def mappings(self, kind: str, where: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
        """Compare two mappings entry by entry; an entry that one of them lacks is a difference."""
        for name in sorted({*here, *there}):
            self.equal(kind, f"{where} {name}", here.get(name, "(none)"), there.get(name, "(none)"))


def trials(home: Home, study: str) -> dict[str, Any]:
    """State, parameters, value and epoch of each trial of a study, by number."""
    return {
        str(trial.number): [trial.state, trial.params, trial.value, trial.epoch] for trial in status(study, home).trials
    }


def epochs(folder: Path) -> dict[str, Any]:
    """All scalars of a run, by epoch and name."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {
        f"{line['epoch']} {name}": value for line in lines for name, value in line.items() if name not in CIRCUMSTANCES
    }


def images(folder: Path) -> dict[str, Any]:
    """Score of each image of a run, by part, checkpoint, image and name; the texts of definitions are left out."""
    path = folder / "per_image.parquet"
    if not path.is_file():
        return {}
    columns = ["part", "checkpoint", "image_sha", "score"]
    return {" ".join(map(str, key)): value for key, value in pd.read_parquet(path).set_index(columns)["value"].items()}


def tensors(path: Path) -> Iterator[tuple[str, str]]:
    """Name and sha256 of each tensor of a safetensors file."""
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118  # no mapping
            tensor = file.get_tensor(name)
            digest = hashlib.sha256(tensor.contiguous().flatten().view(-1).numpy().tobytes()).hexdigest()
            yield name, f"{tuple(tensor.shape)} {tensor.dtype} {digest[:16]}"


def stored(home: Home) -> dict[str, str]:
    """All tensors of all stored stages and of all models of runs, by file and name."""
    found = {}
    for folder in (home.stages, home.runs):
        for path in sorted(folder.rglob("*.safetensors")):
            found |= {f"{path.relative_to(home.path)} {name}": digest for name, digest in tensors(path)}
    return found


def tables(home: Home) -> dict[str, str]:
    """Lines of every table, by file and number, but for those that say how it was made."""
    found = {}
    for path in sorted((home.path / "tables").rglob("*")):
        if path.suffix not in (".csv", ".md", ".tex"):
            continue
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(MADE_BY)]
        found |= {f"{path.relative_to(home.path)}:{number}": line for number, line in enumerate(lines, 1)}
    return found


def compare(here: Home, there: Home) -> Comparison:
    """What differs between two homes."""
    found = Comparison()
    found.equal("studies", "names", here.study_names(), there.study_names())
    for study in sorted({*here.study_names()} & {*there.study_names()}):
        found.mappings("trials", study, trials(here, study), trials(there, study))
    runs = sorted({*here.run_ids(), *there.run_ids()})
    found.equal("runs", "ids", sorted(here.run_ids()), sorted(there.run_ids()))
    for run in runs:
        folders = (here.runs / run, there.runs / run)
        if not all((folder / "record.json").is_file() for folder in folders):
            continue
        one, two = (json.loads((folder / "record.json").read_text()) for folder in folders)
        found.mappings("records", run, {k: one.get(k) for k in RECORD}, {k: two.get(k) for k in RECORD})
        found.mappings("epochs", run, epochs(folders[0]), epochs(folders[1]))
        found.mappings("images", run, images(folders[0]), images(folders[1]))
    found.mappings("tensors", "", stored(here), stored(there))
    found.mappings("tables", "", tables(here), tables(there))
    return found


def main() -> int:
    """Print what was compared and what differs; 1 if anything does."""
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    found = compare(*(Home(Path(word)) for word in sys.argv[1:]))
    for kind, count in found.counts.items():
        different = found.differences.get(kind, [])
        print(f"{kind}: {count} compared, {len(different)} differ")
        for line in different[:SHOWN]:
            print(f"  {line}")
    return 1 if found.differences else 0


if __name__ == "__main__":
    sys.exit(main())
