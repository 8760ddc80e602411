"""What the columns of a particle table mean, and their units."""

from __future__ import annotations

PIXEL_COLUMNS = (
    *("label", "area_px", "equivalent_diameter_px", "centroid_row", "centroid_column", "perimeter_px", "circularity"),
    *("touches_border", "feret_max_px", "feret_min_px", "major_axis_px", "minor_axis_px", "aspect_ratio"),
    *("orientation_deg", "solidity", "eccentricity", "holes"),
    *("box_row", "box_column", "box_height_px", "box_width_px"),
)
VALUE_COLUMNS = ("mean_grey", "confidence", "disagreement")
"""Means over a particle's pixels, in tables of particles whose image and probabilities, and whose seeds, are known."""
NM_COLUMNS = (
    *("area_nm2", "equivalent_diameter_nm", "perimeter_nm", "feret_max_nm", "feret_min_nm"),
    *("major_axis_nm", "minor_axis_nm"),
)

_NEIGHBOUR = (
    "distance to the centre of mass of the nearest other particle; empty where one outside the frame could be nearer"
)
_ORDER = "order of the bonds to the neighbours, weighted by the edges of Voronoi cells, 1 for a perfect lattice; empty"
_LENGTHS = {
    "nearest_neighbour": _NEIGHBOUR,
    "equivalent_diameter": "equivalent circular diameter: of the disc of equal area",
    "perimeter": "length of the outline, holes included, by Crofton's formula with four directions",
    "feret_max": "largest Feret diameter: greatest distance of two points of the particle, its pixels being squares",
    "feret_min": "smallest Feret diameter: least distance of two parallel lines with the particle between them",
    "major_axis": "long axis of the ellipse with the particle's second moments, its pixels being squares",
    "minor_axis": "short axis of the ellipse with the particle's second moments, its pixels being squares",
}
_OTHERS = {
    "image": ("", "file name of the image"),
    "label": ("", "number of the particle in its image, from 1, by first pixel, row by row; the value of its pixels in "
              "the label image, and the number in the overlay"),
    "area_px": ("px", "number of pixels"),
    "area_nm2": ("nm^2", "area"),
    "centroid_row": ("px", "row of the centre of mass; 0 is the centre of the first row of pixels"),
    "centroid_column": ("px", "column of the centre of mass; 0 is the centre of the first column of pixels"),
    "circularity": ("", "4 pi area / perimeter^2, at most 1; says little of particles under some 30 pixels"),
    "touches_border": ("", "whether the frame of the image cuts the particle, so that size and shape are not its own"),
    "aspect_ratio": ("", "long / short axis of the ellipse, 1 or more"),
    "orientation_deg": ("degree", "angle of the long axis to the rows of the image, counter-clockwise, from 0 to 180; "
                        "says nothing where the aspect ratio is near 1"),
    "solidity": ("", "area / number of pixels whose centres lie in the convex hull of the particle's pixel centres"),
    "eccentricity": ("", "of the ellipse, 0 for a circle: sqrt(1 - (short / long axis)^2)"),
    "holes": ("", "number of holes: regions of background, or of other particles, that the particle encloses"),
    "box_row": ("px", "first row of the bounding box, 0 is the first row of the image"),
    "box_column": ("px", "first column of the bounding box, 0 is the first column of the image"),
    "box_height_px": ("px", "rows of the bounding box"),
    "box_width_px": ("px", "columns of the bounding box"),
    "psi4": ("", f"four-fold {_ORDER} where the frame hides a possible neighbour"),
    "psi6": ("", f"six-fold {_ORDER} where the frame hides a possible neighbour"),
    "mean_grey": ("grey value", "mean over the particle of the image's own grey values"),
    "confidence": ("", "mean over the particle of the predicted probability, from 0.5 to 1"),
    "disagreement": ("", "mean over the particle of the standard deviation, over the seeds that voted, of their "
                     "probabilities, from 0 (all alike) to 0.5"),
}  # fmt: skip


def described_columns(names: list[str]) -> dict[str, dict[str, str]]:
    """Unit and meaning of each column of a particle table, in the order of `names`; no unit is an empty text."""
    return {name: dict(zip(("unit", "meaning"), _described(name), strict=True)) for name in names}


def _described(name: str) -> tuple[str, str]:
    if name in _OTHERS:
        return _OTHERS[name]
    length, _, unit = name.rpartition("_")
    return unit, _LENGTHS[length]
