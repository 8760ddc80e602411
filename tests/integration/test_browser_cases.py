"""The browser of the tests finds what is wrong with a page, and nothing in one that is right."""

from __future__ import annotations

from pathlib import Path

from browser_cases import look, needs_browser

BAD = """<!doctype html><html><body><div id="wide" style="width: 900px">as wide as a table</div>
<img src="missing.png"><script>console.error("it is", "broken"); undefined_function();</script></body></html>"""
GOOD = """<!doctype html><html><head><meta name="viewport" content="width=device-width"></head>
<body><p>a page</p><script>setTimeout(() => document.body.append("that fills later"), 500)</script>
</body></html>"""


@needs_browser
def test_errors_and_what_is_too_wide_are_found(tmp_path: Path) -> None:
    (tmp_path / "bad page.html").write_text(BAD)
    seen = look(tmp_path / "bad page.html", width=400, height=300)
    assert seen.overflow and any("as wide as a table" in part for part in seen.too_wide)
    assert "it is broken" in seen.console_errors
    assert any("undefined_function is not defined" in line for line in seen.console_errors)
    assert len(seen.failed_requests) == 1 and "missing.png" in seen.failed_requests[0]


@needs_browser
def test_nothing_is_found_on_a_page_that_is_right(tmp_path: Path) -> None:
    (tmp_path / "good.html").write_text(GOOD)
    seen = look(tmp_path / "good.html", width=400, height=300, awaits="fills later")
    assert (seen.console_errors, seen.overflow, seen.failed_requests, seen.outside, seen.too_wide) == (
        [],
        False,
        [],
        [],
        [],
    )
    assert "a page" in seen.text and "that fills later" in seen.text
    assert seen.screenshot.startswith(b"\x89PNG") and seen.screenshot[16:24] == bytes([0, 0, 1, 144, 0, 0, 1, 44])
