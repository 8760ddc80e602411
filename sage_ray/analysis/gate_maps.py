"""Where attention gates look: overlays early, middle and late in training, and the share of attention at boundaries.

From runs with `runtime.attention_every` above 0, whose maps lie in runs/ID/artifacts/attention/epoch_NNNN.npz.

    python analysis/attention_maps.py [--study NAME ...] [--gate N] [--arm NAME ...]
"""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from sage_ray.analysis.arms import missing_runs
from sage_ray.analysis.command import script_parser, study_script
from sage_ray.analysis.figure_style import new_figure, save_script_figure, style, tidy_axes
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tables import NONE, Provenance, TextTable, number, provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError
from sage_ray.followed import pull
from sage_ray.imaging.drawing import attention_overlay
from sage_ray.record.run_record import FINISHED

SHARE, AREA = "attention_boundary_share", "attention_boundary_area"
NUM_IMAGES = 3
SHADED = 3
"""Arms up to which the range of runs is drawn."""
WHEN = ("early", "middle", "late")
_FILE = re.compile(r"epoch_(\d+)\.npz")


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if a run of the study recorded attention, else why not."""
    recorded = tidy.rows(kind="epoch", studies=[facts.name], part="val", scores=[SHARE], columns=["run_id"])
    return None if len(recorded) else "no attention was recorded; train with runtime.attention_every above 0"


def map_files(tidy: Tidy, run_id: str) -> dict[int, Path]:
    """Recorded maps of a run by epoch."""
    folder = tidy.home.runs / run_id / "artifacts" / "attention"
    pull(folder, all_sizes=True)
    found = {int(match[1]): path for path in folder.glob("*.npz") if (match := _FILE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def maps_of(tidy: Tidy, runs: pd.DataFrame, run_id: str) -> dict[int, Path]:
    """Maps of a run by epoch; those of a first phase that it took from another run's stage are that run's.

    Args:
        tidy: the table.
        runs: among which the other run is looked for: all of a home, as studies share stages.
        run_id: one of them.
    """
    own = map_files(tidy, run_id)
    keys = {name: _first_key(text) for name, text in zip(runs["run_id"], runs["stage_keys"], strict=True)}
    if keys[run_id] is None:
        return own
    length = _first_length(tidy, run_id)
    borrowed: dict[int, Path] = {}
    for other, key in keys.items():
        if other != run_id and key == keys[run_id]:
            borrowed |= {epoch: path for epoch, path in map_files(tidy, other).items() if epoch <= length}
    return dict(sorted((borrowed | own).items()))


def three_of(epochs: Sequence[int]) -> list[int]:
    """First, middle and last of the recorded epochs; fewer if there are fewer."""
    return list(dict.fromkeys([epochs[0], epochs[len(epochs) // 2], epochs[-1]]))


def shares(tidy: Tidy, facts: StudyFacts) -> pd.DataFrame:
    """Share of attention at boundaries by epoch, over all gates: arm, seed, run_id, epoch, share, area."""
    columns = ["arm", "trial", "run_id", "seed", "epoch", "score", "value"]
    rows = tidy.rows(kind="epoch", studies=[facts.name], part="val", scores=[SHARE, AREA], columns=columns)
    runs = study_runs(tidy, facts.name)
    rows = rows[rows["run_id"].isin(runs.loc[runs["state"] == FINISHED, "run_id"])]
    if facts.kind != "ablation":
        rows = rows.assign(arm=[f"trial {trial}" for trial in rows["trial"]])
    wide = rows.pivot(index=["arm", "seed", "run_id", "epoch"], columns="score", values="value").reset_index()
    wide = wide.rename(columns={SHARE: "share", AREA: "area"}).dropna(subset=["share"])
    return wide.sort_values("arm", key=lambda arms: arms.map(facts.place_of), kind="stable", ignore_index=True)


def share_table(facts: StudyFacts, found: pd.DataFrame) -> TextTable:
    """Mean share over runs, early, middle and late, beside what even attention would have."""
    rows = []
    for arm, own in found.groupby("arm", sort=False):
        epochs = sorted(own["epoch"].unique())
        by_epoch = own.groupby("epoch")["share"].mean()
        cells = [f"{number(by_epoch[epoch])} ({int(epoch)})" for epoch in three_of(epochs)]
        rows.append(
            [
                facts.called(str(arm)),
                str(own["run_id"].nunique()),
                *(cells + [NONE] * 3)[:3],
                number(own["area"].mean()),
            ]
        )
    return TextTable(
        title=f"Share of attention at boundaries in {facts.name}",
        columns=["arm", "runs", *(f"{when} (epoch)" for when in WHEN), "even attention"],
        rows=rows,
        notes=[
            "Share of a gate's attention on pixels within evaluation.boundary_tolerance of the true boundary; mean "
            "over gates, validation images and runs. Even attention: the share of all pixels that lie there.",
        ],
    )


def draw_maps(files: Mapping[int, Path], gate: int | None, title: str, path: Path, source: Provenance) -> Path:
    """Draw overlays of one gate: a row per image, a column per epoch, and first the image with its true outline.

    Raises:
        UserError: there is no such gate, or a file is damaged.
    """
    epochs = three_of(list(files))
    loaded = {epoch: _load(files[epoch]) for epoch in epochs}
    gates = sorted(name for name in loaded[epochs[0]] if name.startswith("gate_"))
    name = f"gate_{gate}" if gate is not None else gates[-1]
    if name not in gates:
        raise UserError("no such gate", f"--gate {gate}", f"gates are numbered 1 (deepest) to {len(gates)}")
    images, truths = loaded[epochs[0]]["image"][:NUM_IMAGES], loaded[epochs[0]]["truth"][:NUM_IMAGES]
    rows, columns = len(images), 1 + len(epochs)
    figure = new_figure(1.2 + 1.9 * columns, 1.3 + 1.9 * rows * images.shape[1] / images.shape[2])
    grid = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        grid[row][0].imshow(images[row], cmap="gray", vmin=0, vmax=255)
        grid[row][0].contour(truths[row] > 127, levels=[0.5], colors="white", linewidths=0.9)
        for column, epoch in enumerate(epochs, start=1):
            grid[row][column].imshow(attention_overlay(images[row], loaded[epoch][name][row] / 255))
        for axes in grid[row]:
            axes.set(xticks=[], yticks=[])
    grid[0][0].set_title("image, true outline", fontsize=9)
    for column, epoch in enumerate(epochs, start=1):
        when = WHEN[column - 1] if len(epochs) == 3 else ""
        grid[0][column].set_title(f"{when} epoch {epoch}".strip(), fontsize=9)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), "plasma"), ax=grid[:, 1:], fraction=0.03, pad=0.02)
    bar.set_label("attention coefficient", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(f"{title}, gate {name.removeprefix('gate_')} of {len(gates)} (deepest first)", fontsize=10)
    scale = "Attention coefficients from 0 (dark violet) to 1 (yellow); lighter is more in grey print too."
    return save_script_figure(figure, path, source, [scale])


def draw_shares(facts: StudyFacts, found: pd.DataFrame, path: Path, source: Provenance, partial: Sequence[str]) -> Path:
    """Share of attention at boundaries by epoch, mean over runs with their range, one line per arm."""
    figure = new_figure(6.6, 4.0)
    axes = figure.subplots()
    few = found["arm"].nunique() <= SHADED
    for place, (arm, own) in enumerate(found.groupby("arm", sort=False)):
        by_epoch = own.groupby("epoch")["share"].agg(["mean", "min", "max"])
        look = style(place)
        if few:
            axes.fill_between(
                by_epoch.index, by_epoch["min"], by_epoch["max"], color=look["color"], alpha=0.15, linewidth=0
            )
        axes.plot(by_epoch.index, by_epoch["mean"], label=facts.called(str(arm)), linewidth=1.4, markersize=4.5, **look)
    axes.axhline(found["area"].mean(), color="0.4", linewidth=1, linestyle=":", label="even attention")
    axes.set(xlabel="epoch", ylabel="share of attention at boundaries")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    tidy_axes(axes)
    note = "Mean over finished runs, gates and validation images" + ("; shaded: range of runs." if few else ".")
    return save_script_figure(figure, path, source, [note], partial)


def make(tidy: Tidy, facts: StudyFacts, out: Path, options: argparse.Namespace) -> Sequence[Path]:
    """Write attention_maps.{md,tex,csv}, attention_maps_share.png and attention_maps_ARM.png of a study."""
    runs, everything = study_runs(tidy, facts.name), tidy.runs()
    found = shares(tidy, facts)
    maps = {run_id: maps_of(tidy, everything, run_id) for run_id in found["run_id"].unique()}
    recorded = [run_id for run_id, files in maps.items() if files]
    source = provenance_of(facts.name, runs[runs["run_id"].isin(found["run_id"])])
    partial = missing_runs(facts, runs)
    table = replace(share_table(facts, found), partial=partial)
    paths = write_tables(out, "attention_maps", [table], found, source)
    paths.append(draw_shares(facts, found, out / "attention_maps_share.png", source, partial))
    for name, run_id in _drawn(facts, runs, recorded, options.arm).items():
        picture = out / f"attention_maps_{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.png"
        paths.append(draw_maps(maps[run_id], options.gate, f"{facts.called(name)}, run {run_id}", picture, source))
    return paths


def _drawn(facts: StudyFacts, runs: pd.DataFrame, recorded: Sequence[str], arms: Sequence[str]) -> dict[str, str]:
    """Arm (or trial) to the run whose maps are drawn: finished ones first, then the lowest seed."""
    table = runs[runs["run_id"].isin(recorded)]
    names = table["arm"] if facts.kind == "ablation" else [f"trial {trial}" for trial in table["trial"]]
    table = table.assign(name=names, unfinished=table["state"] != FINISHED).sort_values(["unfinished", "trial", "seed"])
    table = table.sort_values("name", key=lambda arms: arms.map(facts.place_of), kind="stable")
    for arm in arms:
        if arm not in set(table["name"]):
            there = ", ".join(dict.fromkeys(map(str, table["name"])))
            raise UserError("no attention of this arm", f"--arm {arm}", f"recorded: {there}")
    first = table.drop_duplicates("name").set_index("name")["run_id"]
    return {str(name): str(run_id) for name, run_id in first.items() if not arms or name in arms}


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError("damaged attention maps", path, f"remove the file ({reason})") from None


def _first_key(stage_keys: str | None) -> str | None:
    """Key of a run's first phase, in the JSON of its stage keys."""
    keys: dict[str, str] = json.loads(stage_keys) if stage_keys else {}
    return keys.get("pretrain")


def _first_length(tidy: Tidy, run_id: str) -> int:
    """Epochs of a run's first phase."""
    rows = tidy.rows(kind="epoch", run_ids=[run_id], scores=["lr"], columns=["phase", "epoch"])
    return int((rows["phase"] == "pretrain").sum())


def main() -> int:
    """Write attention_maps of each study that it is for; the exit code."""
    parser = script_parser("attention_maps", __doc__)
    parser.add_argument("--gate", type=int, help="which gate, 1 being the deepest [default: the finest]")
    parser.add_argument("--arm", action="append", default=[], help="draw only this arm; may be repeated")
    return study_script(parser, applies, make)
