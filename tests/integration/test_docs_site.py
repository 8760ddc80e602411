"""The documentation site: it builds without a warning, has a page for everything, and loads nothing from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pytest
from browser_cases import look, needs_browser

from sage_ray.terminal.setting_reference import setting_rows

REPO = Path(__file__).resolve().parents[2]
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""Elements of a page for which a browser fetches something at once, with the attribute that says what."""


class Page(HTMLParser):
    """What a page loads, and the names in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.names.add(str(given["id"]))
        # A page may say where it and its neighbours lie; nothing is fetched for that.
        if tag in LOADED and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(str(given.get(LOADED[tag]) or ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, at another place."""
    out = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=REPO,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    said = built.stdout + built.stderr
    assert built.returncode == 0, said
    assert "WARNING" not in said and "ERROR" not in said, said
    return out


def test_nothing_is_loaded_from_outside(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        outside = [what for what in Page(page).loads if re.match(r"(https?:)?//", what)]
        assert not outside, (page, outside)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_setting_has_a_place_that_can_be_linked_to(site: Path) -> None:
    names = {True: Page(site / "reference/settings.html").names, False: Page(site / "reference/study_files.html").names}
    for row in setting_rows():
        assert row.path in names[row.kind == "config"], row.path
    text = (site / "reference/settings.html").read_text(encoding="utf-8")
    assert "Scales the three cycle terms together" in text  # the words of --explain


def test_every_verb_every_message_and_every_function_has_its_entry(site: Path) -> None:
    import typer.main

    import sage_ray
    from sage_ray.terminal.cli import app

    verbs = Page(site / "reference/commands.html").names
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for full in [f"{name}-{inner}" for inner in getattr(command, "commands", {})] or [name]:
            assert full in verbs
    functions = {name.rsplit(".", 1)[-1] for name in Page(site / "reference/python.html").names}
    assert set(sage_ray.__all__) - {"__version__", "Home"} <= functions
    messages = (site / "reference/messages.html").read_text(encoding="utf-8")
    for words in ("not an assignment", "no locked test part", "study is being run", "mask is SAID x SAID pixels"):
        assert words in messages


def test_pages_of_the_repository_that_are_linked_are_part_of_the_site(site: Path) -> None:
    for page in ("project/CHANGELOG.html", "project/benchmarks/results/verdicts.html", "howto/label_images.html"):
        assert (site / page).is_file()
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="howto/read_a_result.html"' in start


def test_every_message_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "scripts"))
    docs_messages = import_module("docs_messages")
    rows = docs_messages.messages()
    assert len(rows) > 400
    assert [what for what, mend in rows if not re.search("[a-z]{3}", mend)] == []
    table = dict(rows)
    assert (
        "did you mean NAME?" in table["unknown setting"]
        and "lossless" in table["mask with the negative value IDS for its particles"]
    )


@needs_browser
def test_pages_from_a_disk_are_searched_and_fit_a_narrow_window(site: Path) -> None:
    seen = look(f"{(site / 'explanation/holm.html').as_uri()}?q=lambda_cycle", awaits="matching documents")
    assert "matching documents" in seen.text and not seen.console_errors and not seen.failed_requests
    for page in ("tutorial/first_study.html", "howto/what_went_wrong.html"):
        narrow = look(site / page, width=400)
        assert not narrow.overflow and not narrow.outside, narrow.too_wide
