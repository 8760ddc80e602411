"""What makes a process of ours begin sooner."""

from __future__ import annotations

import gc

OFTEN = (700, 2000)
"""Python's own first threshold, up to 3.12 and from then on."""
SELDOM = 10_000


def start_quickly() -> None:
    """Collect garbage less often than Python does by itself, unless somebody has chosen already how often.

    What a process imports at its start are some million objects that live as long as it does. To look through them
    again and again takes a tenth to a fifth of the time until a verb or a trial begins (benchmarks/import_time.py).
    """
    usual, *older = gc.get_threshold()
    if usual in OFTEN:
        gc.set_threshold(SELDOM, *older)
