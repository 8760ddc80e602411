"""A drawn scanning electron micrograph: substrate, particles with bright edges, charging, scan lines, shot noise.

The image formation is qualitative (secondary electrons: yield grows with the slope of the surface), masks are exact: a
pixel belongs to the particle whose outline contains its centre, in the scan's own distorted frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

Generator = np.random.Generator


@dataclass(frozen=True)
class Particles:
    """Shape and brightness that the particles of one image share."""

    centres: np.ndarray
    """(n,2) row and column in pixels."""
    radii: np.ndarray
    """(n,) in pixels."""
    roughness: float
    """Amplitude of the outline's harmonics, as a share of the radius."""
    facets: int
    """0: round; 3 and more: a rounded polygon of as many sides."""
    elongation: float
    """Longer over shorter axis, from 1."""
    rim: float
    """Brightness of the edge relative to the body's contrast."""
    light: float
    """Direction of the detector, in radians."""


def outline_field(rng: Generator, size: int, particles: Particles) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """labels (H,W) uint16, soft cover (H,W) and relief (H,W), each particle over those before it.

    `cover` in [0,1] is 1 inside and falls to 0 within a pixel of the outline; `relief` is the particle's brightness
    in units of its contrast, about 1 on the body and more at the rim.
    """
    labels = np.zeros((size, size), np.uint16)
    cover, relief = np.zeros((size, size)), np.zeros((size, size))
    shift = _scan_shift(rng, size)
    turn = rng.uniform(0, 2 * math.pi)
    for index, ((row, column), radius) in enumerate(zip(particles.centres, particles.radii, strict=True), start=1):
        shape = rng.normal(0, particles.roughness, 4), rng.uniform(0, 2 * math.pi, 4)
        angle = turn + rng.normal(0, 0.15)
        gain = rng.normal(1, 0.06)
        reach = radius * particles.elongation * 1.3 + 2 + abs(shift).max()
        top, bottom = _span(row, reach, size)
        left, right = _span(column, reach, size)
        if top >= bottom or left >= right:
            continue
        y = np.arange(top, bottom)[:, None] - row
        x = np.arange(left, right)[None, :] - column - shift[top:bottom, None]
        depth, radial, phi = _inside(x, y, radius, angle, shape, particles)
        body = _relief(radial, phi, particles) * gain
        window = (slice(top, bottom), slice(left, right))
        alpha = np.clip(depth + 0.5, 0, 1)
        cover[window] = np.maximum(cover[window], alpha)
        # Fewer electrons escape from the crevice beside a particle that lies on top.
        crevice = 1 - 0.55 * np.exp(np.minimum(depth, 0) / (0.22 * radius))
        relief[window] = relief[window] * crevice * (1 - alpha) + body * alpha
        labels[window][depth > 0] = index
    return labels, cover, relief


def _span(centre: float, reach: float, size: int) -> tuple[int, int]:
    return max(0, math.floor(centre - reach)), min(size, math.ceil(centre + reach) + 1)


def _scan_shift(rng: Generator, size: int) -> np.ndarray:
    """(H,) columns by which drift and vibration move each scan line; the masks follow it."""
    lines = np.arange(size) / size
    drift = rng.normal(0, 0.008) * size * lines
    sway = rng.uniform(0, 0.6) * np.sin(2 * math.pi * (rng.uniform(1, 4) * lines + rng.random()))
    return drift + sway + rng.normal(0, rng.uniform(0, 0.15), size)


def _inside(
    x: np.ndarray,
    y: np.ndarray,
    radius: float,
    angle: float,
    shape: tuple[np.ndarray, np.ndarray],
    particles: Particles,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distance to the outline in pixels (positive inside), radius over outline radius, and polar angle."""
    along = math.cos(angle) * x + math.sin(angle) * y
    across = (math.cos(angle) * y - math.sin(angle) * x) * particles.elongation
    distance, phi = np.hypot(along, across), np.arctan2(across, along)
    outline = np.ones_like(phi)
    for order, (amplitude, phase) in enumerate(zip(*shape, strict=True), start=2):
        outline = outline + amplitude / order * np.cos(order * phi + phase)
    if particles.facets:
        sector = 2 * math.pi / particles.facets
        polygon = math.cos(sector / 2) / np.cos(np.mod(phi, sector) - sector / 2)
        outline = outline * (0.2 + 0.8 * polygon) * (1 + 0.4 / particles.facets)
    outline = np.maximum(outline, 0.3) * radius * math.sqrt(particles.elongation)
    return outline - distance, distance / outline, phi + angle


def _relief(radial: np.ndarray, phi: np.ndarray, particles: Particles) -> np.ndarray:
    height = np.sqrt(np.clip(1 - radial**2, 0, 1))
    rim = (1 - height) ** 1.6
    facing = radial * np.cos(phi - particles.light)
    relief: np.ndarray = 0.7 + 0.3 * height**2 + particles.rim * rim + 0.18 * facing
    return relief


@dataclass(frozen=True)
class Conditions:
    """How one micrograph was taken; brightness in units of the full grey scale."""

    base: float
    contrast: float
    """Particle body over substrate; negative for dark particles."""
    gradient: float
    texture: float
    grain: float
    shadow: float
    halo: float
    streaks: float
    line_noise: float
    blur: float
    """Standard deviation in pixels."""
    dose: float
    """Electrons per pixel at full scale."""


def draw_conditions(rng: Generator, size: int) -> Conditions:
    """Conditions from an easy, a dim, a charging or a dark-particle image."""
    kind = rng.choice(("easy", "dim", "charging", "dark"), p=(0.34, 0.22, 0.24, 0.2))
    contrast = rng.uniform(0.24, 0.5)
    gradient = rng.uniform(0.0, 0.15)
    if kind == "dim":
        contrast, gradient = rng.uniform(0.13, 0.2), rng.uniform(0.05, 0.2)
    elif kind == "charging":
        contrast, gradient = rng.uniform(0.16, 0.32), rng.uniform(0.35, 0.6)
    elif kind == "dark":
        contrast, gradient = -rng.uniform(0.16, 0.36), rng.uniform(0.0, 0.3)
    base = rng.uniform(0.45, 0.7) if contrast < 0 else rng.uniform(0.16, 0.4)
    scale = size / 256
    return Conditions(
        base=base,
        contrast=contrast,
        gradient=gradient,
        texture=rng.uniform(0.008, 0.04),
        grain=rng.uniform(0.008, 0.03),
        shadow=rng.uniform(0.05, 0.35),
        halo=rng.uniform(0.0, 0.1),
        streaks=rng.uniform(0.0, 0.12) if kind == "charging" else rng.uniform(0.0, 0.03),
        line_noise=rng.uniform(0.002, 0.012),
        blur=float(np.clip(rng.uniform(0.5, 1.1) * scale**0.5, 0.4, 1.8)),
        dose=float(rng.choice((140, 250, 450, 900)) * rng.uniform(0.8, 1.2) * (1.6 if kind == "dim" else 1)),
    )


def expose(
    rng: Generator, labels: np.ndarray, cover: np.ndarray, relief: np.ndarray, radius: float, conditions: Conditions
) -> np.ndarray:
    """The micrograph (H,W) uint8 of a scene; mean particle `radius` in pixels."""
    size = len(labels)
    surface = _substrate(rng, size, conditions)
    surface = surface * (1 - conditions.shadow * gaussian_filter(cover, 0.7 * radius + 0.5) * (1 - cover))
    surface = surface + conditions.halo * gaussian_filter(cover, 2.5 * radius)
    grainy = relief * (1 + 0.7 * conditions.texture / 0.04 * 0.12 * _noise(rng, size, 0.8, 1.2))
    body = surface + conditions.contrast * grainy
    if conditions.contrast < 0:
        body = surface * (1 + conditions.contrast * 1.5) + 0.6 * abs(conditions.contrast) * (grainy - 1)
    signal = surface * (1 - cover) + body * cover
    signal = signal * (1 + _illumination(rng, size) * conditions.gradient) + _streaks(rng, cover, conditions)
    signal = gaussian_filter(signal, conditions.blur)
    signal = signal + rng.normal(0, conditions.line_noise, (size, 1))
    signal = np.clip(signal, 0.01, None)
    counted = rng.poisson(signal * conditions.dose) / conditions.dose
    # The detector's bandwidth smears the noise a little along the line.
    counted = gaussian_filter1d(counted, 0.35, axis=1)
    return _digitise(rng, counted)


def _substrate(rng: Generator, size: int, conditions: Conditions) -> np.ndarray:
    rough = conditions.texture * _noise(rng, size, size / 12, 0.5) + conditions.grain * _noise(rng, size, 1.6, 0.0)
    surface = conditions.base * (1 + 2 * rough)
    rows, columns = np.mgrid[:size, :size] / size
    for _ in range(int(rng.integers(0, 4))):  # scratches and steps of the support
        angle, offset = rng.uniform(0, math.pi), rng.uniform(0.1, 0.9)
        bend = rng.normal(0, 0.15) * (columns - 0.5) ** 2
        distance = (rows - offset) * math.sin(angle) + (columns - offset) * math.cos(angle) + bend
        width = rng.uniform(0.003, 0.012)
        surface = surface + rng.normal(0, 0.035) * np.exp(-((distance / width) ** 2))
        surface = surface + rng.normal(0, 0.012) * np.tanh(distance / width)
    return surface


def _noise(rng: Generator, size: int, scale: float, octaves: float) -> np.ndarray:
    """Unit-variance noise (H,W) of correlation length `scale` pixels; `octaves` > 0 is the weight of finer detail."""
    total = np.zeros((size, size))
    weight = 1.0
    for _ in range(4 if octaves else 1):
        layer = gaussian_filter(rng.normal(0, 1, (size, size)), scale, mode="wrap")
        total += weight * layer / max(layer.std(), 1e-9)
        weight, scale = weight * octaves, scale / 2
        if scale < 0.5:
            break
    texture: np.ndarray = total / max(total.std(), 1e-9)
    return texture


def _illumination(rng: Generator, size: int) -> np.ndarray:
    """Slow brightness change (H,W), roughly from -1 to 1: a slope, a bowl and a charged spot."""
    rows, columns = np.mgrid[:size, :size] / size * 2 - 1
    angle = rng.uniform(0, 2 * math.pi)
    field = math.sin(angle) * rows + math.cos(angle) * columns
    field = field + rng.normal(0, 0.3) * (rows**2 + columns**2 - 0.67)
    spot = rng.uniform(-1, 1, 2)
    width = rng.uniform(0.3, 0.8)
    field = field + rng.uniform(-0.8, 0.8) * np.exp(-((rows - spot[0]) ** 2 + (columns - spot[1]) ** 2) / width**2)
    change: np.ndarray = field / np.abs(field).max()
    return change


def _streaks(rng: Generator, cover: np.ndarray, conditions: Conditions) -> np.ndarray:
    """Dark tails behind particles along the scan line, uneven from line to line."""
    # Here, as scipy.signal takes most of a second to import, in every worker, and few draw images.
    from scipy.signal import lfilter

    decay = math.exp(-1 / (len(cover) * rng.uniform(0.08, 0.3)))
    tails = lfilter([1 - decay], [1, -decay], cover, axis=1)
    uneven = np.clip(1 + 0.5 * rng.normal(0, 1, (len(cover), 1)), 0, 2)
    streaks: np.ndarray = -conditions.streaks * gaussian_filter1d(np.tanh(2 * tails) * uneven, 0.6, axis=0)
    return streaks


def _digitise(rng: Generator, signal: np.ndarray) -> np.ndarray:
    """Brightness and contrast as an operator sets them: most of the grey scale used, a few highlights clipped."""
    low, high = np.quantile(signal, (0.002, 0.998))
    black, white = rng.uniform(0.0, 0.16), rng.uniform(0.78, 1.03)
    scaled = black + (signal - low) / max(high - low, 1e-6) * (white - black)
    grey: np.ndarray = np.clip(np.round(255 * scaled), 0, 255).astype(np.uint8)
    return grey
