"""Results in a notebook and at IPython's prompt: what is not known is left out, whatever else stands in its column."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from IPython.lib.pretty import pretty

from sage_ray.notebook_view import NotebookView


@dataclass(frozen=True)
class Shown(NotebookView):
    """A result with a given table."""

    table: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        return self.table

    def headline(self) -> str:
        return "Two versions"


def test_the_reference_has_no_difference_and_a_single_image_no_interval() -> None:
    rows = [
        {"version": 1, "difference": None, "difference_low": None, "difference_high": None, "p_value": None},
        {"version": 2, "difference": 0.5, "difference_low": 0.25, "difference_high": 0.75, "p_value": 0.125},
        {"version": 3, "difference": 0.5, "difference_low": None, "difference_high": None, "p_value": None},
    ]
    result = Shown(pd.DataFrame(rows))
    for text in (result._repr_html_(), pretty(result)):
        assert "0.500 [0.250, 0.750]" in text and "0.125" in text
        assert "nan" not in text.lower() and "none" not in text.lower()


def test_a_table_without_rows_is_its_headline() -> None:
    assert pretty(Shown(pd.DataFrame({"version": []}))) == "Two versions"
