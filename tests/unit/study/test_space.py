"""Search spaces: what loads, what is refused in one line, and how a choice becomes a config."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sage_ray.config import shipped
from sage_ray.errors import UserError
from sage_ray.study.expressions import parse
from sage_ray.study.space import Space, load_space

GOOD: dict[str, Any] = {
    "name": "good",
    "base": {"preset": "tiny_sage_gan"},
    "objective": {"metric": "val/dice", "reduce": "plateau", "direction": "maximize"},
    "space": {
        "adversarial.lambda_cycle": {"float": [0.1, 10], "log": True},
        "segmentation_loss.alpha": {"float": [0.2, 0.8]},
        "segmentation_loss.beta": {"tie": "1 - segmentation_loss.alpha"},
        "segmentation_loss.focal_gamma": {"float": [1, 4], "when": {"segmentation_loss.w_focal": [1]}},
        "segmentation_loss.w_focal": {"categorical": [0, 1]},
        "adversarial.betas": {"categorical": [[0.9, 0.999], [0.5, 0.999]]},
        "adversarial.freeze_epochs": {"int": [0, 4], "step": 2},
    },
    "points": [{}, {"segmentation_loss.alpha": 0.3}],
    "sampler": {"name": "tpe", "seed": 0},
    "scheduler": {"name": "asha", "grace_epochs": 4},
    "seeds": [0, 1],
    "trials": 12,
    "concurrency": 2,
    "resources": {"cpu": 1, "gpu": 0, "workers": 1},
}


def changed(**changes: Any) -> dict[str, Any]:
    """GOOD with keys replaced; a key may be dotted with `__`, None removes it."""
    tree = copy.deepcopy(GOOD)
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        place = tree
        for part in parents:
            place = place[part]
        if value is None:
            place.pop(leaf, None)
        else:
            place[leaf] = value
    return tree


def with_dimension(path: str, dimension: dict[str, Any], **changes: Any) -> dict[str, Any]:
    tree = changed(**changes)
    tree["space"][path] = dimension
    return tree


def load(tree: dict[str, Any], folder: Path, **kwargs: Any) -> Space:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_space(path, **kwargs)


def test_good_space_loads(tmp_path: Path) -> None:
    space = load(GOOD, tmp_path)
    assert space.trials == 12 and space.name == "good" and space.max_epochs() == 24
    assert space.base.runtime.threads == 1 and space.base.runtime.device == "cpu"
    order = [d.path for d in space.dimensions]
    assert order.index("segmentation_loss.w_focal") < order.index("segmentation_loss.focal_gamma")
    assert order.index("segmentation_loss.alpha") < order.index("segmentation_loss.beta")


def test_the_empty_point_is_the_base_and_a_partial_point_completes_from_it(tmp_path: Path) -> None:
    space = load(GOOD, tmp_path)
    base, partial = space.fixed
    assert base.values == {} and space.config(base.values) == space.base
    assert base.params["segmentation_loss.alpha"] == 0.4
    config = space.config(partial.values, seed=5)
    assert (config.segmentation_loss.alpha, config.segmentation_loss.beta) == (0.3, 0.7)
    assert config.adversarial.lambda_cycle == space.base.adversarial.lambda_cycle and config.seed == 5


def test_the_untuned_base_is_found_among_the_points(tmp_path: Path) -> None:
    known = load(changed(points=[{"segmentation_loss.alpha": 0.3}, {}]), tmp_path)
    assert known.untuned_trial() == 1 and known.is_untuned(1)
    assert not known.is_untuned(0) and not known.is_untuned(7) and not known.is_untuned(-1)
    without = load(changed(points=[{"segmentation_loss.alpha": 0.3}]), tmp_path)
    assert without.untuned_trial() is None


def test_condition_decides_whether_a_dimension_exists(tmp_path: Path) -> None:
    space = load(GOOD, tmp_path)
    chosen = {d.path: d.grid()[0] if d.choices else d.low for d in space.dimensions if d.kind != "tie"}
    off = space.sample(lambda d: chosen[d.path])
    assert "segmentation_loss.focal_gamma" not in off.params
    chosen["segmentation_loss.w_focal"] = 1.0
    on = space.sample(lambda d: chosen[d.path])
    assert on.values["segmentation_loss.focal_gamma"] == 1.0 and on.values["segmentation_loss.beta"] == 0.8


def test_untuned_base_outside_a_range_is_kept_as_it_is(tmp_path: Path) -> None:
    space = load(with_dimension("adversarial.lambda_cycle", {"float": [2, 10]}), tmp_path)
    assert space.fixed[0].values == {} and "adversarial.lambda_cycle" not in space.fixed[0].drawn


def test_grid_holds_every_cell_once_points_first(tmp_path: Path) -> None:
    dimensions = {
        "segmentation_loss.w_focal": {"categorical": [0, 1]},
        "segmentation_loss.focal_gamma": {"float": [1, 2], "step": 0.5, "when": {"segmentation_loss.w_focal": 1}},
    }
    space = load(changed(space=dimensions, points=[{}], sampler={"name": "grid"}, trials=None), tmp_path)
    cells = [
        (s.params["segmentation_loss.w_focal"], s.params.get("segmentation_loss.focal_gamma")) for s in space.fixed
    ]
    assert cells == [(0.0, None), (1.0, 1.0), (1.0, 1.5), (1.0, 2.0)] and space.trials == 4


def test_sets_change_the_base_or_the_files_own_keys(tmp_path: Path) -> None:
    sets = ["pretrain.epochs=3", "trials=7", "scheduler.grace_epochs=2", "seeds=[4]", "adversarial.lr=1e-4"]
    space = load(GOOD, tmp_path, sets=sets)
    assert space.base.pretrain.epochs == 3 and space.base.adversarial.lr == 1e-4
    assert (space.trials, space.file.scheduler.grace_epochs, space.file.seeds) == (7, 2, (4,))


def test_hash_ignores_what_may_grow_and_sees_the_rest(tmp_path: Path) -> None:
    space = load(GOOD, tmp_path)
    grown = load(changed(name="other", trials=50, concurrency=1, max_hours=2), tmp_path)
    assert grown.hash == space.hash
    for other in (changed(seeds=[0]), changed(sampler__seed=1), changed(base__set={"pretrain.epochs": 3})):
        assert load(other, tmp_path).hash != space.hash


def test_space_written_for_a_study_reads_back_equal(tmp_path: Path) -> None:
    from sage_ray.config import dump

    space = load(GOOD, tmp_path, sets=["pretrain.epochs=3"])
    study = tmp_path / "study"
    study.mkdir()
    (study / "base.yaml").write_text(dump(space.base))
    (study / "space.yaml").write_text(space.to_yaml("base.yaml"))
    again = load_space(study / "space.yaml")
    assert again.hash == space.hash and again.base == space.base and again.dimensions == space.dimensions
    assert again.fixed == space.fixed


def test_relative_data_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = load(changed(base__set={"data.path": "some/pictures"}), tmp_path)
    assert space.base.data.path == str(tmp_path / "some" / "pictures")


@pytest.mark.parametrize("name", sorted(n for n in shipped("space") if n.startswith("search_")))
def test_shipped_spaces_load_by_name(name: str) -> None:
    space = load_space(name)
    assert f"search_{space.name}" == name and space.fixed[0].values == {}


def bad(label: str, tree: dict[str, Any], *words: str) -> Any:
    return pytest.param(tree, words, id=label)


BAD = [
    bad("path", with_dimension("adversarial.lamda_cycle", {"float": [1, 2]}), "lamda_cycle", "lambda_cycle"),
    bad("empty range", with_dimension("pretrain.lr", {"float": [0.2, 0.1]}), "pretrain.lr", "empty range"),
    bad("log through 0", with_dimension("pretrain.lr", {"float": [0, 0.1], "log": True}), "pretrain.lr", "log range"),
    bad("non-finite", with_dimension("pretrain.lr", {"float": [0.1, float("inf")]}), "pretrain.lr", "finite"),
    bad("nan", with_dimension("pretrain.lr", {"float": [float("nan"), 0.1]}), "pretrain.lr", "finite"),
    bad("end refused", with_dimension("segmenter.dropout", {"float": [0, 1]}), "segmenter.dropout = 1.0"),
    bad("choice refused", with_dimension("segmenter.norm", {"categorical": ["batch", "layer"]}), "segmenter.norm"),
    bad("unknown model", with_dimension("segmenter.name", {"categorical": ["unett"]}), "unett"),
    bad("tie refused", with_dimension("segmentation_loss.beta", {"tie": "0.5 - segmentation_loss.alpha"}), "beta"),
    bad("tie no path", with_dimension("segmentation_loss.beta", {"tie": "1 - alpha"}), "alpha"),
    bad("tie code", with_dimension("segmentation_loss.beta", {"tie": "__import__('os')"}), "bad tie"),
    bad("tie power", with_dimension("segmentation_loss.beta", {"tie": "9 ** 9 ** 9"}), "bad tie"),
    bad("tie division", with_dimension("segmentation_loss.beta", {"tie": "1 / 0"}), "division by 0"),
    bad("tie text", with_dimension("segmentation_loss.beta", {"tie": "1 - segmenter.name"}), "no number"),
    bad("circle", with_dimension("segmentation_loss.alpha", {"tie": "1 - segmentation_loss.beta"}), "circle"),
    bad("when path", with_dimension("pretrain.lr", {"float": [1e-4, 1], "when": {"pretrain.no": 1}}), "pretrain.no"),
    bad("two kinds", with_dimension("pretrain.lr", {"float": [1e-4, 1], "int": [1, 2]}), "exactly one"),
    bad("kind", with_dimension("pretrain.lr", {"flaot": [1e-4, 1]}), "flaot", "float"),
    bad("runtime", with_dimension("runtime.threads", {"int": [1, 2]}), "runtime.threads"),
    bad("seed", with_dimension("seed", {"int": [1, 2]}), "seeds"),
    bad("split", with_dimension("data.split.fold", {"int": [0, 1]}), "data.split.fold"),
    bad("repeated", with_dimension("adversarial.lr", {"categorical": [0.001, "1e-3"]}), "repeated"),
    bad("no choice", with_dimension("adversarial.lr", {"categorical": []}), "adversarial.lr", "empty range"),
    bad("key", changed(trails=3), "trails", "trials"),
    bad("nested key", changed(sampler={"nmae": "tpe"}), "nmae", "name"),
    bad("sampler", changed(sampler={"name": "tep"}), "sampler tep", "tpe"),
    bad("scheduler", changed(scheduler={"name": "ahsa"}), "asha"),
    bad("score", changed(objective={"metric": "val/dicee"}), "val/dice"),
    bad("reduce", changed(objective={"reduce": "mean"}), "objective.reduce"),
    bad("gpu fraction", changed(resources={"gpu": 1.5}), "1.5"),
    bad("no trials", changed(trials=None), "trials"),
    bad("zero trials", changed(trials=0), "trials"),
    bad("too many points", changed(trials=1), "2 points"),
    bad("seeds twice", changed(seeds=[1, 1]), "seeds"),
    bad("no seeds", changed(seeds=[]), "seeds"),
    bad("folds", changed(folds=[0, 1]), "fold 0"),
    bad("name", changed(name="a/b"), "a/b"),
    bad("no name", changed(name=None), "name"),
    bad("no dimension", changed(space={}, points=[{}]), "no dimension"),
    bad("point path", changed(points=[{"adversarial.lamda_cycle": 1}]), "lamda_cycle", "lambda_cycle"),
    bad("point tied", changed(points=[{"segmentation_loss.beta": 0.5}]), "segmentation_loss.beta"),
    bad("point outside", changed(points=[{"segmentation_loss.alpha": 0.9}]), "0.9"),
    bad("point off step", changed(points=[{"adversarial.freeze_epochs": 3}]), "adversarial.freeze_epochs"),
    bad("point inactive", changed(points=[{"segmentation_loss.focal_gamma": 2}]), "not active"),
    bad("both bases", changed(base={"preset": "unet", "file": "x.yaml"}), "base"),
    bad("preset", changed(base={"preset": "tiny_sage_gam"}), "tiny_sage_gan"),
    bad("base value", changed(base__set={"pretrain.lr": -1}), "pretrain.lr"),
    bad("no validation", changed(base__set={"data.split.validation": 0, "evaluation.select": "last",
                                            "pretrain.handoff": "last"}), "validation"),
    bad("cuda without gpu", changed(base__set={"runtime.device": "cuda"}, resources={"gpu": 0}), "resources.gpu"),
    bad("batch and workers", changed(resources={"workers": 3}), "batch_size"),
    bad("grid of floats", changed(sampler={"name": "grid"}), "step"),
    bad("gp with condition", changed(sampler={"name": "gp"}), "conditional"),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "words"), BAD)
def test_bad_space_is_one_line_that_names_it(tmp_path: Path, tree: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        load(tree, tmp_path)
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_gp_needs_the_base_inside(tmp_path: Path) -> None:
    inside = {"adversarial.lambda_cycle": {"float": [0.5, 10]}}
    assert load(changed(space=inside, points=[{}], sampler={"name": "gp"}), tmp_path).trials == 12
    outside = {"adversarial.lambda_cycle": {"float": [2, 10]}}
    with pytest.raises(UserError, match="outside its range"):
        load(changed(space=outside, points=[{}], sampler={"name": "gp"}), tmp_path)


def test_missing_file_and_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_space(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="search_tiny"):
        load_space("serch_tiny")


numbers = st.floats(-50, 50, allow_nan=False).map(lambda x: round(x, 3))


@given(a=numbers, b=numbers, c=numbers)
def test_expressions_agree_with_python(a: float, b: float, c: float) -> None:
    text = f"-(x.y + {abs(b)}) * {abs(c)} - z / 4 + +1"
    expression = parse(text, "test")
    assert expression.paths == ("x.y", "z")
    value = expression.evaluate({"x.y": a, "z": b}.__getitem__, "test")
    assert value == pytest.approx(-(a + abs(b)) * abs(c) - b / 4 + 1, rel=1e-11, abs=1e-9)


@pytest.mark.parametrize(
    "text",
    ["a if b else c", "f(1)", "a[0]", "a.b()", "1; 2", "1e308 * 10", "x := 1", "a == b", "'1'", "True", "1e400", "",
     "(" * 300, "1 % 2"],
)  # fmt: skip
def test_expressions_refuse_all_but_arithmetic(text: str) -> None:
    with pytest.raises(UserError):
        parse(text, "test").evaluate(lambda path: 1.0, "test")
