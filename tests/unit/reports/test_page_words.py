"""Words of pages: what settings are, and paths without the folders of a machine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from sage_ray.registry.comparison import Comparison
from sage_ray.reports.model_page import repeating
from sage_ray.reports.named_places import told_place
from sage_ray.reports.page_parts import Bullets
from sage_ray.reports.setting_meanings import MOST_EXPLAINED, meanings, setting_meaning
from sage_ray.terminal.setting_reference import explain, setting_rows


def test_a_page_explains_a_setting_as_the_terminal_does() -> None:
    for path in ("adversarial.lr", "adversarial.mask_path", "data.split.labels", "segmenter.width"):
        assert setting_meaning(path) == explain(path)[0].meaning != ""
    assert setting_meaning("adversarial.nothing") == setting_meaning("arm") == setting_meaning("seed.more") == ""


def test_many_settings_are_not_all_explained() -> None:
    paths = [row.path for row in setting_rows() if row.kind == "config"][: MOST_EXPLAINED + 5]
    lines = meanings([*paths, paths[0], "no.setting"])[1]
    assert isinstance(lines, Bullets) and len(lines.items) == MOST_EXPLAINED + 1
    assert lines.items[-1].startswith("5 more: `sage-ray config show --explain PATH`")
    assert meanings(["arm", "seed.more"]) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no folder /data/em/images: mend it", "no folder .../images: mend it"),
        ("see /lab/home/runs/a/b.json, in /lab/home.", "see HOME/runs/a/b.json, in HOME."),
        ("/lab/home2/x (/tmp/y)", ".../x (.../y)"),
        ("val/dice and/or 3/4 of data/images", "val/dice and/or 3/4 of data/images"),
        ("https://a.b/c/d s3://bucket/x file:///a/b ~/a/b", "https://a.b/c/d s3://bucket/x file:///a/b ~/a/b"),
        ("- /a/b\n- `/c/d/e.png`", "- .../b\n- `.../e.png`"),
    ],
)
def test_paths_are_told_without_the_folders_of_the_machine(text: str, told: str) -> None:
    assert told_place(text, ["/lab/home"]) == told


@pytest.mark.parametrize(("numbers", "compares"), [((3,), False), ((3, 4), True)])
def test_a_page_of_one_version_does_not_tell_to_compare_it(numbers: tuple[int, ...], compares: bool) -> None:
    versions = [SimpleNamespace(version=number) for number in numbers]
    told = repeating(cast(Comparison, SimpleNamespace(model_name="other", versions=versions)))
    assert ("sage-ray compare" in told) == compares and told.endswith("sage-ray report other")
    assert ("--versions 3,4 --model-name other" in told) == compares
