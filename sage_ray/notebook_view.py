"""How a result looks in a notebook: a line that says what it is, its table, and what has to be known to read it."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 40
"""Rows of a table that a notebook shows; `frame()` has all."""
COLUMNS = 110
"""Of a table in text."""
_BOX = "border-collapse:collapse;margin:.4em 0"
_TEXT = "text-align:left;padding:.15em .7em;border-bottom:1px solid #8884;white-space:nowrap"
_NUMBER = _TEXT.replace("left", "right")


class NotebookView(ABC):
    """Base of results: `frame()` is the result as a table, and a notebook shows it below `headline()`."""

    @abstractmethod
    def frame(self) -> pd.DataFrame:
        """The result as a table (pandas)."""

    @abstractmethod
    def headline(self) -> str:
        """What the result is, in one line."""

    def remarks(self) -> Sequence[str]:
        """Sentences that stand below the table."""
        return ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        # IPython takes what stands nearest to the class, and a dataclass has a `__repr__` of its own.
        type.__setattr__(cls, "_repr_pretty_", NotebookView._repr_pretty_)

    def _repr_html_(self) -> str:
        return html_of(self.headline(), self.frame(), self.remarks())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython shows where there is no HTML, as in a terminal."""
        frame = for_reading(self.frame())
        table = frame.to_string(
            index=False, max_rows=MAX_ROWS, line_width=COLUMNS, float_format="{:.4g}".format, na_rep=""
        )
        printer.text("\n".join([self.headline(), *([table] if len(frame) else []), *self.remarks()]))


def html_of(headline: str, frame: pd.DataFrame, remarks: Sequence[str] = ()) -> str:
    """A headline, a table and lines below it, as HTML that needs no style sheet and reads in light and dark themes."""
    shown = for_reading(frame.head(MAX_ROWS))
    numeric = [kind.kind in "iuf" for kind in shown.dtypes]
    styles = [_NUMBER if is_number else _TEXT for is_number in numeric]
    head = "".join(
        f'<th style="{style}">{html.escape(str(name))}</th>' for name, style in zip(shown.columns, styles, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="{style}">{html.escape(cell_text(value))}</td>'
            for value, style in zip(row, styles, strict=True)
        )
        + "</tr>"
        for row in shown.itertuples(index=False, name=None)
    )
    table = f'<table style="{_BOX}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>' if len(frame) else ""
    lines = list(remarks)
    if len(frame) > len(shown):
        lines.insert(0, f"The first {len(shown)} of {len(frame)} rows; frame() has all.")
    below = "".join(f'<div style="opacity:.75">{html.escape(line)}</div>' for line in lines)
    return f"<div><div><b>{html.escape(headline)}</b></div>{table}{below}</div>"


def for_reading(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as a person reads it: no empty columns, short hashes, and a score with its interval in one cell."""
    shown = frame.dropna(axis="columns", how="all")
    for name in list(shown.columns):
        low, high = f"{name}_low", f"{name}_high"
        if low in shown and high in shown:
            rows = zip(shown[name], shown[low], shown[high], strict=True)
            shown = shown.drop(columns=[low, high]).assign(**{name: [_with_interval(*row) for row in rows]})
    if "weights_sha" in shown:
        shown = shown.assign(weights_sha=[sha[:10] if isinstance(sha, str) else "" for sha in shown["weights_sha"]])
    return shown


def _with_interval(mean: float, low: float, high: float) -> str:
    """A score and its interval, what is not known (NaN) left out."""
    if mean != mean:
        return ""
    return f"{mean:.3f}" + ("" if low != low else f" [{low:.3f}, {high:.3f}]")


def cell_text(value: object) -> str:
    """A value as a cell shows it: floats to four digits, nothing for none."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:.4e}"
    return str(value)
