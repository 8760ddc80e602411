"""A setting that is text stays as it was written, whatever YAML would make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_ray.config import dump, parse_set, read_yaml, resolve
from sage_ray.errors import UserError
from sage_ray.study.space import load_space

LOOKS_LIKE_MORE = (
    *("sample #1", "[old] data", "2024-01-31", "null", "1e3", "a=b, c: d"),
    *("2024", "1e-9", "true", "no", "0x10", "0755", "1_000", ".5", "nan", "~x", "- a", "{a}", "it's", "&a", "*_m.tif"),
)


@pytest.mark.parametrize("name", LOOKS_LIKE_MORE)
def test_a_folder_of_any_name_is_taken_literally(name: str, tmp_path: Path) -> None:
    config = resolve("tiny_unet", sets=[f"data.path={name}"]).config
    assert config.data.path == name
    file = tmp_path / "config.yaml"
    file.write_text(dump(config))
    assert resolve(file=file).config == config


@pytest.mark.parametrize("name", ["2024", "1e3", "1.0e3", "0755", "true", "null", "2024-01-31", "1_000"])
def test_a_config_file_need_not_quote_it(name: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"extends: tiny_unet\ndata:\n  path: {name}\n")
    assert resolve(file=file).config.data.path == name
    file.write_text(f"extends: tiny_unet\ndata.path: {name}\nseed: 3\npretrain: {{checkpoint: null}}\n")
    assert resolve(file=file).config.data.path == name
    space = tmp_path / "space.yaml"
    space.write_text(
        f"name: s\ntrials: 2\nbase: {{preset: tiny_unet, set: {{data.path: {name}}}}}\n"
        "space: {pretrain.lr: {float: [1.0e-4, 0.1]}}\n"
    )
    assert load_space(space).base.data.path == str(Path(name).absolute())


def test_quotes_round_the_whole_text_and_words_for_nothing_mean_what_they_did() -> None:
    assert parse_set('data.path="2024"') == ("data.path", "2024")
    assert parse_set("data.path='it''s'") == ("data.path", "it's")
    assert parse_set("pretrain.checkpoint=null") == ("pretrain.checkpoint", None)
    assert parse_set("data.split.group=") == ("data.split.group", None)
    assert parse_set("pretrain.lr=1e-4") == ("pretrain.lr", 1e-4)
    assert parse_set("data.image_size=[64, 96]") == ("data.image_size", [64, 96])


@pytest.mark.parametrize("text", ["pretrain.lr=[1", "seed={a", "data.image_size=&"])
def test_a_value_that_is_no_yaml_is_one_clear_line(text: str) -> None:
    with pytest.raises(UserError, match="^unreadable value: --set ") as error:
        parse_set(text)
    assert "\n" not in str(error.value)


def test_nothing_is_no_path(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data:\n  path:\n")
    assert read_yaml(file) == {"data": {"path": None}}
    with pytest.raises(UserError, match="data.path"):
        resolve(file=file)


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1).map(str.strip).filter(bool))
def test_any_text_that_is_not_quoted_is_its_own_value(text: str) -> None:
    if text[0] in "'\"" and text[-1] == text[0]:
        return
    assert parse_set(f"data.path={text}") == ("data.path", text)
