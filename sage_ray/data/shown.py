"""Grey values of an image as a viewer shows them, from the samples that are stored: one rule for every format."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sage_ray.data.problems import bad_file
from sage_ray.data.stored_picture import Look, StoredPicture, parts, upright

_WEIGHTS = (19595, 38470, 7471)
"""ITU-R 601 weights of red, green and blue in units of 1/65536, as Pillow has them; they add up to 65536."""


def grey_bands(picture: StoredPicture) -> Iterator[np.ndarray]:
    """Bands (n, columns) of grey values of the first page, from the top of the picture that a viewer shows.

    Raises:
        BadFile: the samples cannot be decoded, or their channels are no colours and differ.
    """
    if picture.is_streamed_upright:
        for band in picture.read(0):
            for part in parts(band):
                yield np.ascontiguousarray(upright(_shown(part, picture), picture.look.orientation))
        return
    whole = np.empty(picture.stored_shape, shown_dtype(picture))
    row = 0
    for band in picture.read(0):
        for part in parts(band):
            whole[row : row + len(part)] = _shown(part, picture)
            row += len(part)
    turned = upright(whole, picture.look.orientation)
    for part in parts(turned):
        yield np.ascontiguousarray(part)


def shown_dtype(picture: StoredPicture) -> np.dtype:
    """Type of the grey values of `grey_bands`."""
    shape = (1, 1) if picture.channels == 1 else (1, 1, picture.channels)
    return shown(np.zeros(shape, picture.dtype), picture.look).dtype


def _shown(band: np.ndarray, picture: StoredPicture) -> np.ndarray:
    try:
        return shown(band, picture.look)
    except ValueError as error:
        mend = "save each channel as a file of its own, or all as RGB"
        raise bad_file(f"{picture.format} image with {error}", picture.path, mend) from None


def shown(samples: np.ndarray, look: Look) -> np.ndarray:
    """Grey values (n, columns) of samples (n, columns) or (n, columns, channels) as a viewer shows them.

    Grey keeps its numbers; 1, 2 and 4 bits are spread over 0 to 255. Where 0 is white, values are counted from the
    other end of their range. Colour becomes luminance of its own depth: 8 bits as Pillow rounds them, 16 bits alike,
    others as float64. Opacity is dropped.

    Raises:
        ValueError: several channels that are no colours and differ.
    """
    if look.kind == "colour":
        return luminance(samples[..., 0], samples[..., 1], samples[..., 2])
    if samples.ndim == 3:
        picture = [n for n in range(samples.shape[2]) if n != look.alpha]
        if any(not np.array_equal(samples[..., n], samples[..., picture[0]]) for n in picture[1:]):
            raise ValueError(f"{len(picture)} channels that are no colours")
        samples = samples[..., picture[0]]
    if look.kind == "palette":
        assert look.palette is not None, "a palette picture has a palette"
        table = luminance(*(look.palette[:, channel] for channel in range(3)))
        entries: np.ndarray = table[np.minimum(samples, len(table) - 1)]
        return entries
    return _grey(samples, look)


def _grey(samples: np.ndarray, look: Look) -> np.ndarray:
    bits = 1 if samples.dtype.kind == "b" else look.bits or 8 * samples.dtype.itemsize
    samples = samples.astype(np.uint8) if samples.dtype.kind == "b" else samples
    if look.kind == "white_is_zero":
        if samples.dtype.kind == "u":
            samples = samples.dtype.type((1 << bits) - 1) - samples
        else:
            samples = ~samples if samples.dtype.kind == "i" else -samples
    if bits < 8 and samples.dtype == np.uint8:
        samples = samples * np.uint8(255 // ((1 << bits) - 1))
    return samples.astype(np.float32) if samples.dtype == np.float16 else samples


def luminance(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Luminance of three channels of one type, of that type if it is uint8 or uint16, else float64.

    Grey stored as colour keeps its numbers, as the weights add up to one.
    """
    if red.dtype in (np.uint8, np.uint16):
        total = np.full(red.shape, 0x8000, np.uint32)
        for channel, weight in zip((red, green, blue), _WEIGHTS, strict=True):
            total += channel.astype(np.uint32) * np.uint32(weight)
        rounded: np.ndarray = (total >> np.uint32(16)).astype(red.dtype)
        return rounded
    wide = [channel.astype(np.float64) for channel in (red, green, blue)]
    grey: np.ndarray = (_WEIGHTS[0] * wide[0] + _WEIGHTS[1] * wide[1] + _WEIGHTS[2] * wide[2]) / 65536
    return np.where((wide[0] == wide[1]) & (wide[1] == wide[2]), wide[0], grey)


def whole_grey(picture: StoredPicture) -> np.ndarray:
    """Grey values (H,W) of the only page: uint8, uint16, float32, or float64 where float32 would round.

    Raises:
        BadFile: several pages, values that are not finite, an image that is only in the alpha channel, and what
            `grey_bands` raises.
    """
    refuse_pages(picture)
    whole = np.empty(picture.shape, shown_dtype(picture))
    row = 0
    for band in grey_bands(picture):
        whole[row : row + len(band)] = band
        row += len(band)
    if row != len(whole):
        raise bad_file("truncated image file", picture.path, f"replace it ({row} of {len(whole)} rows are there)")
    bad = 0 if whole.dtype.kind != "f" else whole.size - int(np.isfinite(whole).sum())
    if bad:
        what = f"image with {bad} of {whole.size} values (NaN or infinite) that are not finite"
        raise bad_file(what, picture.path, "replace them, such as by the median of their neighbours, and save it again")
    if whole.size and whole.min() == whole.max() and picture.look.alpha is not None:
        _refuse_picture_in_alpha(picture)
    return narrowed(whole)


def refuse_pages(picture: StoredPicture) -> None:
    """Refuse a file of several pictures by their number.

    Raises:
        BadFile: such a file.
    """
    if picture.pages > 1:
        what = f"file with {picture.pages} pages, where one image is expected"
        raise bad_file(what, picture.path, "save each page as a file of its own")


def _refuse_picture_in_alpha(picture: StoredPicture) -> None:
    layers = (band[..., picture.look.alpha] for band in picture.read(0))
    opacities = {value for layer in layers for value in (layer.min(), layer.max())}
    if len(opacities) > 1:
        what = "image whose grey values are constant, with a picture in its alpha channel"
        raise bad_file(what, picture.path, "save that channel as a grey image")


def narrowed(grey: np.ndarray) -> np.ndarray:
    """The same values as uint8, uint16, float32 or float64, the smallest of the last three that holds them exactly."""
    if grey.dtype in (np.uint8, np.uint16, np.float32, np.float64) or not grey.size:
        return grey
    low, high = grey.min(), grey.max()
    if low >= 0 and high <= 65535:
        return grey.astype(np.uint16)
    exact = max(abs(int(low)), abs(int(high))) <= 1 << 24
    return grey.astype(np.float32 if exact else np.float64)
