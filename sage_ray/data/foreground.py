"""`data.foreground` on pixels: the mask that a rule makes of the values that a file stores.

Ignored pixels are background, in training and in scores: a prepared mask holds 0 and 1 alone. It is said of each mask
that has some.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from skimage.measure import label

from sage_ray.data.masks import Mask, MaskValues, classify_values, labels_or_reason, whole_numbers
from sage_ray.data.notes import first_named
from sage_ray.data.problems import bad_file
from sage_ray.foreground_rule import ForegroundRule, ValueTerm, foreground_rule

IGNORED = "pixels that data.foreground ignores are background, in training and in scores"
UNNAMED = "values that data.foreground does not name are background"
_SHOWN = 6
_SIXTEEN_BITS = 257


@dataclass
class SeenTerms:
    """Which terms of a rule occurred in the masks read so far, and which values these masks have."""

    foreground: str
    named: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    masks: int = 0

    def add(self, mask: Mask) -> None:
        """Count one mask that was read under the rule."""
        self.named |= mask.named
        self.values |= set(mask.values)
        self.masks += 1

    def missing(self) -> list[str]:
        """One line for the terms that no mask has."""
        rule = foreground_rule(self.foreground)
        terms = [term.text for term in (*rule.foreground, *rule.ignored) if term.text not in self.named]
        if not self.masks or not terms:
            return []
        return [f"note: data.foreground names {', '.join(terms)}, which no mask has ({self.shown()})"]

    def shown(self) -> str:
        """Such as "the masks have 0, 1, 255"."""
        has = sorted(self.values, key=lambda text: (text.startswith("#"), 0.0 if text[0] == "#" else float(text), text))
        more = ", ..." if len(has) > 2 * _SHOWN else ""
        return f"the masks have {', '.join(has[: 2 * _SHOWN])}{more}"


@dataclass(frozen=True, eq=False)
class _Distinct:
    """The distinct `values` (n,) of a mask in rising order, their colours if there are any, and `ranks` (H,W)."""

    values: np.ndarray
    ranks: np.ndarray
    colours: tuple[tuple[int, ...], ...] | None
    is_numbered: bool
    """Whether the values say something; False where they only number colours."""

    def name(self, place: int) -> str:
        """The value, or the colour, as a rule would name it."""
        if self.is_numbered or self.colours is None:
            return f"{self.values[place]:g}"
        parts = [part // _SIXTEEN_BITS if max(self.colours[place]) > 255 else part for part in self.colours[place]]
        return "#" + "".join(f"{part:02x}" for part in parts)

    def is_background(self, place: int) -> bool:
        """Whether it is 0, or black where values only number colours."""
        return not (self.values[place] if self.is_numbered or self.colours is None else any(self.colours[place]))


def apply_foreground(stored: MaskValues, rule: ForegroundRule, path: Path | str = "mask") -> Mask:
    """The mask that a rule makes of stored values.

    Values and colours that are named one by one are classes: their particles are the 4-connected regions of one class.
    Values of a range are labels of particles where each forms one region or a few, and else one foreground, as the soft
    edges of a mask are. A rule that names no particles leaves all values but the ignored ones to `classify_values`.

    Raises:
        BadFile: numbers are named, and the mask has colours; or what is left without a rule is no mask.
    """
    found = _distinct(stored)
    hits = {term.text: _hits(term, found, path) for term in (*rule.foreground, *rule.ignored)}
    ignored = _any([hits[term.text] for term in rule.ignored], len(found.values))
    named = frozenset(text for text, hit in hits.items() if hit.any())
    if rule.foreground:
        chosen = _any([hits[term.text] for term in rule.foreground], len(found.values)) & ~ignored
        mask = _classes(rule, hits, chosen, found) if _is_classes(rule) else _labels_of_ranges(chosen, found)
    else:
        chosen = ~ignored
        kept = np.where(ignored[found.ranks], stored.values.dtype.type(0), stored.values)
        mask = classify_values(whole_numbers(kept), path, are_colours=stored.colours is not None)
    details = dict(_said(ignored, chosen, found))
    every = tuple(found.name(place) for place in range(min(len(found.values), _SHOWN)))
    return replace(mask, notes=(*stored.notes, *details), details=details, named=named, values=every)


def _distinct(stored: MaskValues) -> _Distinct:
    pixels = stored.values if stored.numbers is None else stored.numbers
    values, first, ranks = np.unique(pixels, return_index=True, return_inverse=True)
    ranks = ranks.reshape(pixels.shape)
    if stored.colours is None:
        return _Distinct(values, ranks, None, True)
    colours = tuple(stored.colours[int(stored.values.flat[place])] for place in first.tolist())
    return _Distinct(values, ranks, colours, stored.numbers is not None)


def _hits(term: ValueTerm, found: _Distinct, path: Path | str) -> np.ndarray:
    """(n,) bool: the distinct values that a term names."""
    if term.colour is not None:
        return _of_colour(term.colour, found)
    if term.is_nan:
        return (
            np.asarray(np.isnan(found.values)) if found.values.dtype.kind == "f" else np.zeros(len(found.values), bool)
        )
    if not found.is_numbered:
        if term.text == ">0":
            return np.array([not found.is_background(place) for place in range(len(found.values))])
        has = ", ".join(found.name(place) for place in range(min(len(found.values), _SHOWN)))
        mend = "name its colours, such as data.foreground='#ff0000'"
        raise bad_file(f"data.foreground names the number {term.text}, the mask has colours ({has})", path, mend)
    values = found.values.astype(np.float64)
    if term.with_ends:
        return np.asarray((values >= term.low) & (values <= term.high))
    return np.asarray((values > term.low) & (values < term.high))


def _of_colour(colour: tuple[int, int, int], found: _Distinct) -> np.ndarray:
    wanted = (colour, tuple(part * _SIXTEEN_BITS for part in colour))
    if found.colours is not None:
        return np.array([each in wanted for each in found.colours])
    greys = [each[0] for each in wanted if len(set(each)) == 1]
    is_wide = bool(found.values.size) and found.values.max() > 255
    return np.isin(found.values, greys[-1:] if is_wide else greys[:1])


def _any(hits: list[np.ndarray], count: int) -> np.ndarray:
    return np.any(hits, axis=0) if hits else np.zeros(count, bool)


def _is_classes(rule: ForegroundRule) -> bool:
    return all(term.is_single for term in rule.foreground)


def _classes(rule: ForegroundRule, hits: dict[str, np.ndarray], chosen: np.ndarray, found: _Distinct) -> Mask:
    numbers = np.zeros(len(found.values), np.int32)
    for number, term in enumerate(rule.foreground, start=1):
        numbers[hits[term.text] & chosen] = number
    return _of_regions(numbers[found.ranks], has_labels=len(rule.foreground) > 1)


def _labels_of_ranges(chosen: np.ndarray, found: _Distinct) -> Mask:
    """Labels if the chosen values look like some, else one foreground."""
    numbers = np.where(chosen, np.arange(1, len(chosen) + 1), 0)
    values = numbers[found.ranks]
    if found.is_numbered and found.values.dtype.kind != "f" and found.values[chosen].min(initial=0) >= 0:
        # With their own sizes, by which labels are told from grey levels.
        values = np.where(chosen, found.values, 0).astype(np.int64)[found.ranks]
    labels, reason = labels_or_reason(values)
    if labels is not None and reason is None:
        return Mask(values > 0, len(np.unique(labels[labels > 0])), labels=labels)
    return _of_regions((values > 0).astype(np.int32), has_labels=False)


def _of_regions(classes: np.ndarray, *, has_labels: bool) -> Mask:
    regions: np.ndarray = label(classes, connectivity=1, background=0)  # type: ignore[no-untyped-call]  # scikit-image
    return Mask(classes > 0, int(regions.max()), labels=regions if has_labels else None)


def _said(ignored: np.ndarray, chosen: np.ndarray, found: _Distinct) -> list[tuple[str, str]]:
    """Each sentence for the user with what is this mask's own."""
    pixels = np.bincount(found.ranks.ravel(), minlength=len(found.values))
    said = []
    if ignored.any():
        said.append((IGNORED, f"{pixels[ignored].sum() / pixels.sum():.1%} of its pixels"))
    others = [place for place in np.flatnonzero(~ignored & ~chosen).tolist() if not found.is_background(place)]
    if others:
        said.append((UNNAMED, first_named([found.name(place) for place in others], _SHOWN)))
    return said
