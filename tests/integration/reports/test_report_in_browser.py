"""A report in a browser, wide and narrow: no console error, nothing asked of outside, nothing wider than the window."""

from __future__ import annotations

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
