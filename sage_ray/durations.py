"""Durations in words."""

from __future__ import annotations


def hours_text(hours: float) -> str:
    """Hours in a unit that leaves digits to see: 70 s, 35 min, 7.5 h, 12 days."""
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def number_text(value: float | None) -> str:
    """A number of hours with digits to see and no exponent."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
