"""Synthetic image/mask pairs drawn by a model's generator: more training data from masks."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sage_ray.apply.input_pictures import find_pictures, result_names
from sage_ray.apply.loaded_model import load_for_use
from sage_ray.apply.result_folder import make_folder
from sage_ray.config import stable_hash
from sage_ray.data.images import BadFile
from sage_ray.data.lineage import Lineage, lineage_of_model, write_lineage
from sage_ray.data.other_data import checked_rule
from sage_ray.data.pair_masks import read_mask_with, rule_that_fits
from sage_ray.data.pairs import look_through
from sage_ray.errors import UserError
from sage_ray.files import sha256_of, write_json
from sage_ray.imaging import drawing
from sage_ray.imaging.model import Model
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef
from sage_ray.record.provenance import now

if TYPE_CHECKING:
    import pandas as pd

SHEET_PAIRS = 6


@dataclass(frozen=True)
class Generation(NotebookView):
    """What `generate` wrote."""

    model: dict[str, Any]
    out: Path
    masks: int
    pairs: int
    seed: int
    files: dict[str, str]
    """What lies where in `out`."""

    def frame(self) -> pd.DataFrame:
        """One row per pair: name, and its image and mask as paths below `out`."""
        import pandas as pd

        names = sorted(path.name for path in (self.out / self.files["images"]).glob("*.png"))
        rows = [
            {"name": Path(name).stem, "image": self.files["images"] + name, "mask": self.files["masks"] + name}
            for name in names
        ]
        return pd.DataFrame(rows, columns=["name", "image", "mask"])

    def headline(self) -> str:
        """How many pairs were made, and where they are."""
        return f"{self.pairs} pairs from {self.masks} masks in {self.out}, seed {self.seed}"

    def remarks(self) -> list[str]:
        """Where a look at the first pairs is, and what the folder can be used for."""
        sheet = (
            f"{self.files['sheet']} there shows the first {SHEET_PAIRS} pairs"
            if self.pairs > 1
            else "pairs.png shows it"
        )
        return [f"{sheet}; data.extra_pairs={self.out} trains on them."]


def generate(
    model: str | Path,
    masks: str | Path,
    out: str | Path,
    *,
    home: Home,
    seed: int = 0,
    count: int = 1,
    foreground: str | None = None,
) -> Generation:
    """Draw `count` images for each mask; the result is a data set that `data.path` takes.

    Writes under `out`: images/NAME.png with masks/NAME.png (0 and 255), pairs.png, generation.json, and lineage.json,
    by which a run that takes them as `data.extra_pairs` sees whether they know its test images. A picture depends on
    the seed, its mask and the mask's name, not on the other masks.

    Args:
        model: run id, folder or `models:/` URI.
        masks: a folder of masks (or a data set with masks/ or segmaps/), or one file.
        out: made if missing; it must hold no other pictures.
        home: where models are looked up.
        seed: same seed, same pictures.
        count: images drawn for each mask.
        foreground: `data.foreground` of the masks; None takes that of the training where it finds particles.

    Raises:
        UserError: no such model, a model without generator, no masks or a bad one, a folder with other pictures.
    """
    if seed < 0 or count < 1:
        raise UserError("bad number", f"seed={seed}, count={count}", "seed is at least 0, count at least 1")
    ref, loaded = load_for_use(model, home)
    if loaded.generator is None:
        raise UserError(
            "model without generator", ref.text, "name one that was trained with adversarial.epochs above 0"
        )
    paths = find_pictures(masks, "masks", ("masks", "segmaps"))
    foregrounds = _foregrounds(paths, _rule(ref, home, paths) if foreground is None else checked_rule(foreground))
    # (place of the mask, number of the copy) of each pair, and its name.
    names = {
        (n, copy): name if count == 1 else f"{name}-{copy:03d}"
        for n, name in enumerate(result_names(paths))
        for copy in range(count)
    }
    folder = make_folder(Path(out).expanduser())
    _refuse_others(folder, {f"{name}.png" for name in names.values()})
    seeds = {place: int(stable_hash([seed, paths[place[0]].stem, place[1]]), 16) for place in names}
    _write_pairs(loaded, [(foregrounds[n], seeds[n, copy], name) for (n, copy), name in names.items()], folder)
    write_lineage(folder, _lineage(ref, masks, paths))
    identity = ref.identity()
    told = {"masks": str(Path(masks).expanduser().absolute()), "number_of_masks": len(paths), "pairs": len(names)}
    told |= {"seed": seed, "count": count, "made": now()}
    write_json(folder / "generation.json", {"format_version": 1, "model": identity, **told})
    files = {"images": "images/", "masks": "masks/", "sheet": "pairs.png"}
    return Generation(identity, folder, len(paths), len(names), seed, files)


def _write_pairs(model: Model, pairs: Sequence[tuple[np.ndarray, int, str]], folder: Path) -> None:
    """Draw the image of each (mask, seed, name) and write both, and a sheet of the first pairs."""
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    for foreground, seed, name in pairs:
        image = model.generate(foreground, seed)
        drawing.save(image, folder / "images" / f"{name}.png")
        drawing.save(foreground, folder / "masks" / f"{name}.png")
        if len(shown) < SHEET_PAIRS:
            shown.append((foreground, image))
    sheet = drawing.generated_pairs([mask for mask, _ in shown], [image for _, image in shown])
    drawing.save(sheet, folder / "pairs.png")


def _lineage(ref: ModelRef, masks: str | Path, paths: Sequence[Path]) -> Lineage:
    """What pairs come from: the model's images, the mask files, and the images beside those in a data set."""
    model = lineage_of_model(ref.folder)
    images: dict[Path, Path] = {}
    with contextlib.suppress(UserError):  # masks alone
        images = {pair.mask.absolute(): pair.image for pair in look_through(masks).pairs}
    beside = [images[path.absolute()] for path in paths if path.absolute() in images]
    return replace(
        model,
        source_masks=tuple(sorted(sha256_of(path) for path in beside)),
        source_mask_files=tuple(sorted({*model.source_mask_files, *map(sha256_of, paths)})),
    )


def _rule(ref: ModelRef, home: Home, paths: Sequence[Path]) -> str:
    config = ref.config(home)
    return "" if config is None else rule_that_fits(paths, config.data.foreground)


def _foregrounds(paths: Sequence[Path], rule: str) -> list[np.ndarray]:
    try:
        return [read_mask_with(path, rule).foreground for path in paths]
    except BadFile as bad:
        raise bad.problem.error() from None


def _refuse_others(folder: Path, ours: set[str]) -> None:
    # Left-overs of another call would silently become part of the data set.
    for name in ("images", "masks"):
        make_folder(folder / name)
        others = sorted(path.name for path in (folder / name).iterdir() if path.name not in ours)
        if others:
            raise UserError("folder holds other files", folder / name / others[0], "choose an empty folder with -o")
