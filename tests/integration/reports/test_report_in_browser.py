"""A report in a browser, wide and narrow: no console error, nothing asked of outside, nothing wider than the window."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser_cases import look, needs_browser
from report_cases import searched

from sage_ray.record.home import Home
from sage_ray.reports.study_reports import report

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Home(tmp_path_factory.mktemp("browser") / "home")
    return report(searched(home, 8, {"base": (0.800, 0.802), "1": (0.812, 0.815)}), home).html


@pytest.mark.parametrize("width", [1280, 400])
def test_a_page_fits_says_no_error_and_asks_nobody(page: Path, width: int) -> None:
    seen = look(page, width)
    assert seen.console_errors == [] and seen.failed_requests == [] and seen.outside == []
    assert not seen.overflow, seen.too_wide
    assert "Trial 1 is better than the untuned base." in seen.text


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_that_asks_for_a_dark_page_gets_one_with_figures_on_a_bright_card(page: Path, width: int) -> None:
    seen = look(page, width, dark=True)
    assert seen.console_errors == [] and not seen.overflow, seen.too_wide
    ground, card = seen.grounds
    assert brightness(ground) < 40 and brightness(card) > 230


def test_paper_is_bright_also_where_the_screen_is_dark(page: Path) -> None:
    seen = look(page, dark=True, printed=True)
    assert [brightness(ground) for ground in seen.grounds] == [255, 255]


def brightness(colour: str) -> float:
    """Mean of red, green and blue of a colour such as rgb(1, 2, 3)."""
    parts = [int(part) for part in re.findall(r"\d+", colour)][:3]
    return sum(parts) / 3
