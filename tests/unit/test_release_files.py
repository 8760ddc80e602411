"""What a release says of itself agrees: the package, the changelog and the citation."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import yaml

from sage_ray import __version__

REPO = Path(__file__).resolve().parents[2]
HEADING = re.compile(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d{2}-\d{2}|unreleased)\)$", re.MULTILINE)


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    releases = HEADING.findall((REPO / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert releases[0][0] == __version__
    numbers = [tuple(int(part) for part in version.split(".")) for version, _ in releases]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) == len(numbers)
    assert all(day != "unreleased" for _, day in releases[1:])


def test_every_release_says_what_it_changes_for_scripts_stores_and_results() -> None:
    text = (REPO / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = HEADING.split(text)[1:]
    described = dict(zip(sections[0::3], sections[2::3], strict=True))
    assert set(described) >= {"0.1.0", __version__}
    for version, body in described.items():
        # The first release changed nothing.
        assert version == "0.1.0" or all(f"**{part}**" in body for part in ("Scripts", "Stores", "Results")), version


def test_the_citation_names_the_version_and_a_day() -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert isinstance(citation["date-released"], date)
    assert citation["license"] == "MIT" and citation["authors"] and citation["cff-version"] == "1.2.0"
