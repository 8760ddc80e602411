"""The words of the reference: a meaning, a type and a true range of every setting; neighbours of a misspelt path."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest

from sage_ray.config import check_path, known_paths, resolve
from sage_ray.errors import UserError
from sage_ray.models import DISCRIMINATORS, GENERATORS, SEGMENTERS
from sage_ray.study.design_schema import DesignFile
from sage_ray.study.file_schema import SpaceFile
from sage_ray.terminal.setting_reference import (
    SettingRow,
    explain,
    explained,
    section_lines,
    section_meanings,
    setting_rows,
)

ROWS = setting_rows()
CONFIG = [row for row in ROWS if row.kind == "config"]
NUMBERS = [row for row in CONFIG if row.type.partition(",")[0] in ("number", "whole number")]
LIMIT = re.compile(r"(at least|above|at most|below) ([\d.]+)|([\d.]+) to ([\d.]+)")


def test_every_setting_and_key_has_a_meaning_a_type_and_a_source() -> None:
    """Who adds a setting says below it what it is: the reference and `--explain` have no other words."""
    silent = [row.path for row in ROWS if len(row.meaning.split()) < 3 or not row.type or ".py, " not in row.source]
    assert not silent, f"give these a docstring below the field: {', '.join(silent)}"
    short = {name: words for name, words in section_meanings().items() if len(words.split()) < 3}
    assert not short


def test_the_reference_has_every_setting_of_a_config_once() -> None:
    assert [row.path for row in CONFIG] == list(known_paths())
    assert len({(row.path, row.kind) for row in ROWS}) == len(ROWS)


def test_no_meaning_begins_with_a_row_or_speaks_of_none() -> None:
    """Rows of the table of disagreements belong to the source, and a file writes null."""
    odd = [row.path for row in ROWS if re.match(r"Rows? \d", row.meaning) or re.search(r"\bNone\b", row.meaning)]
    assert not odd
    assert "row 27" in explain("data.mask_erosion")[0].source


@pytest.mark.parametrize(
    ("table", "path"), [(SEGMENTERS, "segmenter"), (GENERATORS, "generator"), (DISCRIMINATORS, "discriminators")]
)
def test_the_meaning_of_a_networks_name_lists_all_of_them(table: dict[str, Any], path: str) -> None:
    words = set(re.findall(r"\w+", explain(f"{path}.name")[0].meaning))
    assert set(table) <= words


def ends(row: SettingRow) -> list[tuple[str, float]]:
    """What a range says of a number: pairs such as ("at least", 0)."""
    found = []
    for word, limit, low, high in LIMIT.findall(row.range):
        found += [(word, float(limit))] if word else [("at least", float(low)), ("at most", float(high))]
    return found


def is_refused(path: str, value: float) -> bool:
    try:
        resolve("tiny_sage_gan", sets={path: value})
    except UserError as error:
        return "bad value" in str(error)
    return False


def test_numbers_beyond_the_ranges_that_are_told_are_refused() -> None:
    checked = 0
    for row in NUMBERS:
        whole = row.type.startswith("whole")
        for word, limit in ends(row):
            step: float = 1 if whole else 0.001
            outside = {"at least": limit - step, "at most": limit + step, "above": limit, "below": limit}[word]
            assert is_refused(row.path, int(outside) if whole else outside), (row.path, row.range)
            checked += 1
    assert checked > 120


def test_words_that_are_told_are_the_words_that_are_taken() -> None:
    words = [row for row in CONFIG if row.type == "word" and not row.path.endswith(("metric", "schedule.rule"))]
    assert len(words) > 15
    for row in words:
        with pytest.raises(UserError) as told:
            resolve("tiny_sage_gan", sets={row.path: "no such word"})
        assert all(f"'{word}'" in str(told.value) for word in row.range.split(", ")), row.path


def test_defaults_are_those_of_a_config_without_a_preset() -> None:
    from sage_ray.config import build_config, parse_set

    plain = build_config({}, "nothing")
    for row in CONFIG:
        _, value = parse_set(f"{row.path}={row.default}")
        if value not in ("", None):
            assert plain.with_values({row.path: value}) == plain, row.path


def test_a_misspelt_path_is_answered_by_the_nearest_names() -> None:
    for wrong, right in [
        ("adversarial.lamda_cycle", "adversarial.lambda_cycle"),
        ("lambda_cycle", "adversarial.lambda_cycle"),
        ("advesarial", "adversarial"),
        ("batch_size", "pretrain.batch_size or adversarial.batch_size or evaluation.batch_size"),
        ("objective.metrics", "objective.metric"),
        ("arms.soft.lable", "arms.ARM.label"),
    ]:
        with pytest.raises(UserError, match=f"did you mean {right}"):
            explain(wrong)


@pytest.mark.parametrize("path", ["", "...", "adversarial.", "1", "*", "arms.", "space", "a" * 300])
def test_odd_paths_end_in_an_answer_or_in_one_line(path: str) -> None:
    try:
        assert explain(path)
    except UserError as error:
        assert "\n" not in str(error)


def test_sections_and_names_of_the_users_own_are_understood() -> None:
    assert [row.path for row in explain("adversarial.weights")] == [
        row.path for row in CONFIG if row.path.startswith("adversarial.weights.")
    ]
    assert explain("arms.soft path.label")[0].path == "arms.ARM.label"
    assert explain("space.adversarial.lr.float")[0].path == "space.SETTING.float"
    assert explain("factors.gates.off.set")[0].path == "factors.FACTOR.LEVEL.set"
    for part, pattern in [
        ("arms.soft", "arms.ARM"),
        ("factors.gates.off", "factors.FACTOR.LEVEL"),
        ("space.adversarial.lr", "space.SETTING"),
    ]:
        assert [row.path for row in explain(part)] == [row.path for row in ROWS if row.path.startswith(f"{pattern}.")]


def test_every_key_of_a_studys_file_is_in_the_reference() -> None:
    keys = {row.path.partition(".")[0] for row in ROWS if row.kind != "config"}
    for model in (SpaceFile, DesignFile):
        assert {info.alias or name for name, info in model.model_fields.items()} <= keys


def test_a_person_reads_meaning_type_range_and_default_in_this_order() -> None:
    lines = explained(explain("adversarial.mask_path")[0])
    named = [line.split(":")[0].strip() for line in lines if re.match(r"  \w+: ", line)]
    assert named == ["type", "range", "default", "sage_gan_public", "source"]
    assert lines[0] == "adversarial.mask_path" and " ".join(lines).endswith("1 and 2")


def test_lines_for_a_person_fit_a_terminal_and_lose_no_word() -> None:
    for row in ROWS:
        lines = explained(row)
        assert all(len(line) <= 80 or len(line.split()) <= 2 for line in lines), row.path
        assert row.meaning.split() == " ".join(lines).split()[1:][: len(row.meaning.split())]


@pytest.mark.parametrize(
    ("item", "told"),
    [("data.image_size.0", "data.image_size"), ("seeds.0", "seeds"), ("objective.1.metric", "objective.metric")],
)
def test_an_item_of_a_list_is_told_of_with_its_list(item: str, told: str) -> None:
    assert [row.path for row in explain(item)] == [told]


@pytest.mark.parametrize(
    ("typo", "said"),
    [
        ("adversarial.weights.gen_adv_image", "did you mean adversarial.weights.adv_image?"),
        ("pretrain.lambda_cycle", "did you mean adversarial.lambda_cycle?"),
        ("extends", "a key of a config file"),
        ("nothing_here", "lists every setting"),
        ("warmup", "lists every setting"),
        ("adversarial.schedule.name", "adversarial.schedule has rule, factor,"),
        ("schedule", "did you mean pretrain.schedule or adversarial.schedule?"),
        ("pretrain.schedule.lr", "did you mean pretrain.lr?"),
        ("objective.name", "objective has metric, reduce, direction"),
        ("discriminator.width", "did you mean discriminators.width?"),
        ("scheduler.grace", "did you mean scheduler.grace_epochs?"),
        ("lambda", "did you mean adversarial.lambda_cycle?"),
        ("ADVERSARIAL.LR", "did you mean adversarial.lr?"),
        ("data.splt", "did you mean data.split?"),
    ],
)
def test_a_path_that_is_none_names_what_is_near(typo: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        explain(typo)
    assert said in refused.value.mend


def test_whatever_is_proposed_for_a_wrong_path_works() -> None:
    """Of every path its first part, its last part, a letter less, a name more, and other sections' last names."""
    leaves = [row.path.rsplit(".", 1)[-1] for row in ROWS]
    wrong = {f"{row.path.rsplit('.', 1)[0]}.{leaf}" for row in CONFIG[::7] for leaf in leaves[::5]}
    wrong |= {
        text for row in CONFIG for text in (row.path[:-1], row.path[1:], f"{row.path}.x", row.path.split(".")[-1])
    }
    proposed = 0
    for path in sorted(wrong):
        with contextlib.suppress(UserError):
            explain(path)
            continue
        with pytest.raises(UserError) as refused:
            explain(path)
        near = re.search(r"did you mean (.*)\?", refused.value.mend)
        has = re.findall(r"(\S+) has ", refused.value.mend)
        for right in [*(near[1].split(" or ") if near else []), *has]:
            assert explain(right), (path, right)
            proposed += 1
        with pytest.raises(UserError) as told:
            check_path(path, "--set")
        near = re.search(r"did you mean (.*)\?", told.value.mend)
        for right in near[1].split(" or ") if near else []:
            check_path(right, "--set")
    assert proposed > 300


def test_all_that_is_told_of_settings_and_sections_fits_80_columns() -> None:
    wide = [line for row in ROWS for line in explained(row) if len(line) > 80 and " " in line.strip()]
    wide += [line for path in section_meanings() for line in section_lines(path) if len(line) > 80]
    assert not wide
    assert section_lines("data")[-1] == "" and not section_lines("data.path")
