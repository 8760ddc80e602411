"""A trained model as a folder of safetensors weights, and what it does: masks from images, images from masks.

The folder holds segmenter.safetensors, generator.safetensors (if the run trained one) and model.json. This module
travels inside registered models: it imports torch, numpy, safetensors and the networks, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sage_ray.errors import UserError
from sage_ray.files import replacing, sha256_of, write_text
from sage_ray.grey_range import MINMAX, PERCENTILE, Rule, stretch_range
from sage_ray.imaging import tiles
from sage_ray.imaging.pickle_guard import refuse_pickle
from sage_ray.imaging.tiles import ArraySource, CroppedSource, RowSource, Tiling
from sage_ray.models import GENERATORS, SEGMENTERS
from sage_ray.models.value_range import to_network_range, to_picture_range

FORMAT_VERSION = 1
SEGMENTER_FILE = "segmenter.safetensors"
GENERATOR_FILE = "generator.safetensors"
SPEC_FILE = "model.json"
MAX_SCALE_RATIO = 4.0
"""An image whose pixels are this many times larger or smaller, in nm, than those of the training images is refused."""
STRETCHES: dict[Rule, str] = {MINMAX: "min-max to 0..255", PERCENTILE: "percentiles 0.1 and 99.9 to 0..255"}
"""How model.json calls each rule of `grey_range.stretch_range`."""


def model_spec(
    segmenter: tuple[str, Mapping[str, Any]] | None,
    generator: tuple[str, Mapping[str, Any]] | None,
    *,
    image_size: Sequence[int],
    crop_bottom: int = 0,
    stretch: Rule = MINMAX,
    native_size: Sequence[int] | None = None,
    nm_per_pixel: Sequence[float] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """What `save_model_folder` writes beside the weights, as plain data.

    Args:
        segmenter: name in SEGMENTERS and its constructor keywords; None without one.
        generator: name in GENERATORS and its constructor keywords; None without one.
        image_size: (rows, columns) that training images were resized to.
        crop_bottom: rows of information bar that training cut off each original.
        stretch: rule of `grey_range.stretch_range` that training brought images to 0..255 by.
        native_size: median (rows, columns) of the original training images before resizing (`crop_bottom` taken off).
            With `image_size` it is the scale at which images of any size are seen. Training images of mixed sizes were
            each squeezed to `image_size` and seen at several scales, of which this is the middle one. None: unknown,
            images are then seen at their own pixels.
        nm_per_pixel: median (height, width) in nanometres of a pixel of the original training images; None: unknown.
        facts: anything else worth keeping, such as run_id or fingerprint; plain JSON data.
    """
    return {
        **facts,
        "segmenter": None if segmenter is None else {"name": segmenter[0], "kwargs": dict(segmenter[1])},
        "generator": None if generator is None else {"name": generator[0], "kwargs": dict(generator[1])},
        "image_size": [int(side) for side in image_size],
        "native_size": None if native_size is None else [int(side) for side in native_size],
        "nm_per_pixel": None if nm_per_pixel is None else [float(side) for side in nm_per_pixel],
        "preprocessing": {
            "crop_bottom": int(crop_bottom),
            "stretch": STRETCHES[stretch],
            "resize": "Pillow bilinear",
        },
        "normalisation": "2 * grey / 255 - 1",
        "mask_values": [0, 1],
    }


def save_model_folder(
    folder: Path, segmenter: nn.Module | None, generator: nn.Module | None, spec: Mapping[str, Any]
) -> Path:
    """Write weights and model.json into `folder` (made if missing) and return it.

    Args:
        folder: a model that it holds already is replaced; model.json is written last.
        segmenter: the selected weights, on any device; None in a model that only generates.
        generator: the same, or None.
        spec: from `model_spec`.

    Raises:
        ValueError: spec and networks disagree about which networks there are.
    """
    for name, given in (("segmenter", segmenter), ("generator", generator)):
        if (given is None) != (spec[name] is None):
            raise ValueError(f"spec and networks disagree: give both a {name} and its entry in model_spec, or neither")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC_FILE).unlink(missing_ok=True)
    checksums = {}
    for name, network in ((SEGMENTER_FILE, segmenter), (GENERATOR_FILE, generator)):
        if network is None:
            (folder / name).unlink(missing_ok=True)
            continue
        weights = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
        with replacing(folder / name) as temporary:
            save_file(weights, temporary)
        checksums[name] = sha256_of(folder / name)
    text = json.dumps({**spec, "format_version": FORMAT_VERSION, "sha256": checksums}, indent=2) + "\n"
    write_text(folder / SPEC_FILE, text)
    return folder


def load_model_folder(folder: str | Path) -> Model:
    """The model in `folder`, on the CPU, in eval mode.

    Raises:
        UserError: no such folder, no model in it, pickled or damaged weights, or a model.json that this version
        cannot read.
    """
    folder = Path(folder)
    if folder.is_file():
        refuse_pickle(folder)
        raise UserError("not a model folder", folder, f"give the folder that holds {SEGMENTER_FILE} and {SPEC_FILE}")
    if not folder.is_dir():
        raise UserError("no such model", folder, "give a folder with a model, such as runs/ID/artifacts/model")
    if not is_model_folder(folder):
        for path in sorted(folder.iterdir()):
            refuse_pickle(path)
        raise UserError("no model in folder", folder, f"it needs {SEGMENTER_FILE} and {SPEC_FILE}")
    spec = _read_spec(folder / SPEC_FILE)
    try:
        segmenter, generator = (
            None if spec[name] is None else _load_network(folder / file, table, spec[name], spec)
            for name, file, table in (
                ("segmenter", SEGMENTER_FILE, SEGMENTERS),
                ("generator", GENERATOR_FILE, GENERATORS),
            )
        )
        return Model(segmenter, generator, spec, folder)
    except KeyError as error:
        raise UserError(
            "incomplete model.json", folder / SPEC_FILE, f"entry {error} is missing; save it again"
        ) from None


def is_model_folder(folder: Path) -> bool:
    """Whether a folder has a model's files: its model.json and the weights of at least one network."""
    return (folder / SPEC_FILE).is_file() and any(
        (folder / name).is_file() for name in (SEGMENTER_FILE, GENERATOR_FILE)
    )


@dataclass(eq=False)
class Model:
    """A segmenter, a generator, or both, with what is needed to use them on images of any size."""

    segmenter: nn.Module | None
    generator: nn.Module | None
    spec: dict[str, Any]
    folder: Path | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(rows, columns) of the network's input in training."""
        rows, columns = self.spec["image_size"]
        return int(rows), int(columns)

    @property
    def nm_per_pixel(self) -> tuple[float, float] | None:
        """(height, width) in nanometres of a pixel of the original training images; None where it is not known."""
        sides = self.spec.get("nm_per_pixel")
        return None if sides is None else (float(sides[0]), float(sides[1]))

    @property
    def stretch(self) -> Rule:
        """Rule of `grey_range.stretch_range` that images are brought to 0..255 by, as in training."""
        told = self.spec["preprocessing"].get("stretch")
        return next((rule for rule, name in STRETCHES.items() if name == told), MINMAX)

    @property
    def device(self) -> torch.device:
        """Device that the networks are on."""
        network = self.segmenter or self.generator
        assert network is not None, "a model without networks"
        return next(network.parameters()).device

    def to(self, device: str | torch.device) -> Model:
        """The same model, its networks moved to `device`."""
        for network in (self.segmenter, self.generator):
            if network is not None:
                network.to(device)
        return self

    def segmenting(self) -> nn.Module:
        """The segmenter. Raises UserError if the model only generates."""
        if self.segmenter is None:
            where = self.folder or "model"
            mend = "it only generates images; use `sage-ray generate`, or a model of another system for masks"
            raise UserError("model without segmenter", where, mend)
        return self.segmenter

    @torch.no_grad()
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Foreground probability (N,H,W) float32 in [0,1] of prepared images (N,H,W) uint8, at the size given.

        Prepared means stretched and resized already, as `PreparedData.images` are.
        """
        grey = torch.tensor(np.asarray(images), device=self.device)[:, None].float() / 255
        logits = self.segmenting()(to_network_range(grey)).float()
        return torch.softmax(logits, dim=1)[:, 1].cpu().numpy()

    def predict_mask(
        self, image: np.ndarray, *, crop_bottom: int | None = None, nm_per_pixel: tuple[float, float] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Foreground probability (H,W) float32 in [0,1] and mask (H,W) bool, probability > 0.5, at the image's size.

        The whole image is stretched to 0..255 and resampled to the scale of training, see `seen_size`; the probability
        is resampled back. An image of the size of the training images goes through the network once, as in training. A
        larger one is cut into overlapping tiles of that size, and a smaller one goes through as it is: no image is
        squeezed into the size of training.

        Args:
            image: grey (H,W), any real dtype.
            crop_bottom: rows of an information bar at the bottom, in which the probability is 0; None: as in training.
            nm_per_pixel: (height, width) of a pixel of the image in nanometres; None: not known.

        Raises:
            UserError: not two-dimensional, empty, not real numbers, or not finite; lower than its bar; or of another
                scale than the training images by more than MAX_SCALE_RATIO.
        """
        source = ArraySource(_checked(image))
        bands = list(self.predict_stream(source, crop_bottom=crop_bottom, nm_per_pixel=nm_per_pixel))
        probability = np.concatenate(bands)
        return probability, probability > 0.5

    def predict_stream(
        self, source: RowSource, *, crop_bottom: int | None = None, nm_per_pixel: tuple[float, float] | None = None
    ) -> Iterator[np.ndarray]:
        """Foreground probability of `predict_mask` as bands (n, columns) float32 in [0,1] from the top.

        Memory stays at a few times (rows of a tile x columns of the image). The source is read twice: once for its
        grey range, as the whole image is stretched alike, and once for its pixels.

        Raises:
            UserError: as `predict_mask`; a value that is not finite.
        """
        rows, columns = source.shape
        bar = self._bar(rows, crop_bottom)
        tiling = self._tiling((rows - bar, columns), nm_per_pixel)
        kept = CroppedSource(source, rows - bar) if bar else source
        try:
            values = stretch_range(kept.bands, self.stretch)
        except ValueError as error:
            raise UserError(str(error), "image", "save it as 8 or 16 bit grey") from None
        yield from tiles.predict_bands(kept, tiling, values, self.probabilities)
        for start in range(0, bar, 256):
            yield np.zeros((min(256, bar - start), columns), np.float32)

    def seen_size(self, shape: tuple[int, ...], nm_per_pixel: tuple[float, float] | None = None) -> tuple[int, int]:
        """(rows, columns) in network pixels of an image of this shape (without its bar) at the scale of training.

        A network pixel has as many nanometres as in training where the size of a pixel is known of the image and of the
        training images, and else as many pixels of the image as it had in training (median over training images).

        Raises:
            UserError: pixels of another size in nm than the training images' by more than MAX_SCALE_RATIO.
        """
        native = self.spec.get("native_size") or self.image_size
        ratio = self._nm_ratio(nm_per_pixel)
        rows, columns = (
            max(round(side * now / before * times), 1)
            for side, now, before, times in zip(shape, self.image_size, native, ratio, strict=True)
        )
        return rows, columns

    def is_tiled(
        self, shape: tuple[int, int], *, crop_bottom: int | None = None, nm_per_pixel: tuple[float, float] | None = None
    ) -> bool:
        """Whether `predict_mask` cuts an image of this shape (rows, columns) into tiles."""
        bar = self._bar(shape[0], crop_bottom)
        return self._tiling((shape[0] - bar, shape[1]), nm_per_pixel).is_cut

    @torch.no_grad()
    def generate(self, mask: np.ndarray, seed: int) -> np.ndarray:
        """A synthetic micrograph (H,W) uint8 for a mask, at the mask's size; the same for equal masks and seeds.

        Args:
            mask: (H,W), non-zero is particle; resized to the training size for the generator.
            seed: of the style and of the noise.

        Raises:
            UserError: the model has no generator, the seed is negative, or the mask is not two-dimensional.
        """
        generator: Any = self.generator
        if generator is None:
            where = self.folder or "model"
            raise UserError("model without generator", where, "train with adversarial.epochs above 0 to have one")
        if seed < 0:
            raise UserError("negative seed", f"seed={seed}", "use 0 or more")
        foreground = _checked(mask) != 0
        rng = np.random.default_rng([int(seed), 0])
        code = rng.standard_normal(generator.style_dim).astype(np.float32)
        noise = rng.random(self.image_size, dtype=np.float32)
        # One style for the whole image, as in the passes of training that do not mix two.
        latents = torch.from_numpy(code).expand(1, generator.levels, -1)
        given = torch.from_numpy(tiles.resize_nearest(foreground, self.image_size).astype(np.float32))
        fake = generator(
            given[None, None].to(self.device),
            latents.to(self.device),
            torch.from_numpy(noise)[None, None].to(self.device),
        )
        grey = (255 * to_picture_range(fake[0, 0].float())).round().clamp(0, 255).byte().cpu().numpy()
        return tiles.resize_image(grey, (foreground.shape[0], foreground.shape[1]))

    def _tiling(self, shape: tuple[int, int], nm_per_pixel: tuple[float, float] | None) -> Tiling:
        # A group norm averages over the whole tile, so its tiles have to be as large as in training.
        any_field = not any(isinstance(layer, nn.GroupNorm) for layer in self.segmenting().modules())
        return Tiling.of(self.seen_size(shape, nm_per_pixel), self.image_size, any_field=any_field)

    def _nm_ratio(self, nm_per_pixel: tuple[float, float] | None) -> tuple[float, float]:
        """Size of the image's pixels over that of the training images' pixels, (height, width); 1 if not known."""
        trained = self.nm_per_pixel
        if nm_per_pixel is None or trained is None:
            return 1.0, 1.0
        ratio = nm_per_pixel[0] / trained[0], nm_per_pixel[1] / trained[1]
        # Files round their scales, so what is just about MAX_SCALE_RATIO is not refused.
        if any(max(side, 1 / side) > MAX_SCALE_RATIO * 1.001 for side in ratio):
            raise UserError(
                f"image of another scale than the model's by more than {MAX_SCALE_RATIO:g} times",
                f"{_in_nm(nm_per_pixel)} nm per pixel, the model was trained at {_in_nm(trained)}",
                "use a model of this scale, or give the right --nm-per-pixel",
            )
        return ratio

    def _bar(self, rows: int, crop_bottom: int | None) -> int:
        bar = int(self.spec["preprocessing"]["crop_bottom"]) if crop_bottom is None else crop_bottom
        if not 0 <= bar < rows:
            raise UserError("image lower than its information bar", f"{rows} rows, bar {bar}", "set crop_bottom to 0")
        return bar


def _in_nm(sides: tuple[float, float]) -> str:
    return " x ".join(f"{side:.4g}" for side in dict.fromkeys(sides))


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0:
        raise UserError("not a grey image", f"array of shape {image.shape}", "give one (rows, columns) array per image")
    if image.dtype == bool:
        return image.astype(np.uint8)
    if image.dtype.kind not in "uif":
        raise UserError("not an image", f"array of {image.dtype}", "give real numbers")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise UserError("image with values that are not finite", "image", "save it as 8 or 16 bit grey")
    return image


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        version = spec["format_version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError("unreadable model.json", path, f"save the model again ({error})") from None
    if version != FORMAT_VERSION:
        raise UserError(
            "model of another format", path, f"it has format {version}, this sage_ray reads {FORMAT_VERSION}"
        )
    return dict(spec)


def _load_network(
    path: Path, table: Mapping[str, Callable[..., nn.Module]], entry: Mapping[str, Any], spec: Mapping[str, Any]
) -> nn.Module:
    if entry["name"] not in table:
        raise UserError(
            "unknown network", f"{entry['name']} in {path.parent}", "choose one of " + ", ".join(sorted(table))
        )
    if not path.is_file():
        raise UserError("no such file", path, "the model folder is incomplete; save or download it again")
    refuse_pickle(path)
    if sha256_of(path) != spec["sha256"][path.name]:
        raise UserError(
            "damaged weights", path, f"its checksum is not the one in {SPEC_FILE}; save or download it again"
        )
    try:
        network = table[entry["name"]](**entry["kwargs"])
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:160]
        raise UserError("weights do not fit the network", path, f"save the model again ({detail})") from None
    return network.eval()
