"""The registered form of a model: loads with plain MLflow, without pickle, and with nothing but its requirements."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.errors import UserError
from sage_ray.evaluation.score_tables import long_rows, summary
from sage_ray.imaging.model import Model, load_model_folder, model_spec, save_model_folder
from sage_ray.imaging.seed_votes import load_seed_votes
from sage_ray.metrics.image_scores import score_image
from sage_ray.models import GENERATORS, SEGMENTERS
from sage_ray.models.init import initialise
from sage_ray.record.home import Home
from sage_ray.record.model_reference import resolve_model
from sage_ray.registry.card import CardFacts, description, model_card, provenance_of_model
from sage_ray.registry.package import ENTRY_MODULES, code_closure, example, requirements, save_package
from sage_ray.training.build import network_kwargs
from sage_ray.training.scoring import score_definitions

LOADER = """
import json, os, sys
import mlflow, numpy as np
assert "sage_ray" not in sys.modules
model = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load(sys.argv[2])
out = {
    "probability": model.predict(images).tolist(),
    "mask": model.predict(images, params={"task": "mask"}).tolist(),
    "generate": model.predict(images, params={"task": "generate", "seed": 3}).tolist(),
    "ray": "ray" in sys.modules,
    "code": sys.modules["sage_ray"].__file__,
}
print(json.dumps(out))
"""


def make_model(folder: Path, config: ExperimentConfig, *, generator: bool = True, seed: int = 1) -> Model:
    """A model folder with initialised networks."""
    kwargs = network_kwargs(config)
    segmenter = SEGMENTERS[config.segmenter.name](**kwargs["segmenter"])
    initialise(segmenter, seed)
    fake = GENERATORS[config.generator.name](**kwargs["generator"]) if generator else None
    if fake is not None:
        initialise(fake, 2)
    spec = model_spec(
        (config.segmenter.name, kwargs["segmenter"]),
        (config.generator.name, kwargs["generator"]) if generator else None,
        image_size=config.data.image_size,
    )
    save_model_folder(folder, segmenter, fake, spec)
    return load_model_folder(folder)


def make_package(tmp_path: Path, *, generator: bool = True, others: tuple[int, ...] = ()) -> tuple[Path, Model]:
    config = resolve(preset="tiny_sage_gan", sets={"data.image_size": [32, 48]}).config
    model = make_model(tmp_path / "weights", config, generator=generator)
    folders = {0: tmp_path / "weights"} | {seed: tmp_path / f"weights-{seed}" for seed in others}
    for seed in others:
        make_model(folders[seed], config, generator=generator, seed=seed)
    grey = example()[0]
    rows = [score_image(grey > t, grey > 100, min_object_pixels=15, boundary_tolerance=2) for t in (90, 110)]
    long = long_rows(rows, ["a" * 64, "b" * 64], score_definitions(config), "selected")
    frame = pd.DataFrame(long).assign(seed=0, run_id="r")
    facts = CardFacts(
        "sage-gan", "final-x", "final-x-s0", "x", 3, "the rule", (0,), config, "f" * 16, "e" * 16,
        {"train": 10, "test": 2}, "abc", "d" * 64, generator, tuple(folders), 1_500_000,
    )  # fmt: skip
    card = model_card(facts, summary(frame, "x"))
    tree = provenance_of_model(facts, ["c" * 64], ["a" * 64, "b" * 64], "9" * 16)
    return save_package(tmp_path / "package", folders, frame, tree, card), model


def images(rows: int = 40, columns: int = 70) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, rows, columns), dtype=np.uint8)


def test_closure_of_the_loader_is_small_and_light() -> None:
    found = code_closure()
    assert set(ENTRY_MODULES) < set(found.modules)
    assert {"sage_ray", "sage_ray.errors", "sage_ray.models"} <= set(found.modules)
    assert not {name for name in found.modules if name.split(".")[1:2] in (["runtime"], ["training"], ["search"])}
    assert found.third_party <= {"torch", "numpy", "safetensors"}
    pinned = requirements(found.third_party)
    assert [line.split("==")[0] for line in pinned] == ["mlflow", "numpy", "safetensors", "torch"]
    assert not any("+" in line for line in pinned)


def test_closure_follows_lazy_and_relative_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "sage_ray"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("from .leaf import x\n")
    (package / "inner" / "leaf.py").write_text("def f():\n    import scipy.stats\n    from .. import other\nx = 1\n")
    (package / "other.py").write_text("import json\nimport yaml\n")
    monkeypatch.setattr("sage_ray.registry.package.files", lambda name: tmp_path / name)
    found = code_closure(("sage_ray.inner",))
    assert set(found.modules) == {"sage_ray", "sage_ray.inner", "sage_ray.inner.leaf", "sage_ray.other"}
    assert found.third_party == {"scipy", "yaml"}


def test_package_loads_with_plain_mlflow_and_agrees_with_the_model(tmp_path: Path) -> None:
    package, model = make_package(tmp_path)
    loaded = mlflow.pyfunc.load_model(str(package))
    stack = images()
    probability = loaded.predict(stack)
    assert probability.shape == stack.shape and probability.dtype == np.float32
    expected = np.stack([model.predict_mask(image)[0] for image in stack])
    np.testing.assert_allclose(probability, expected, atol=1e-6)
    mask = loaded.predict(stack, params={"task": "mask"})
    assert mask.dtype == np.uint8 and np.array_equal(mask, (expected > 0.5).astype(np.uint8))
    fake = loaded.predict(mask, params={"task": "generate", "seed": 5})
    assert fake.shape == stack.shape and fake.dtype == np.uint8
    assert np.array_equal(fake[1], model.generate(mask[1] > 0, 6))
    with pytest.raises(ValueError, match="unknown task 'paint': choose one of probability, mask, generate"):
        loaded.predict(stack, params={"task": "paint"})
    signature = loaded.metadata.signature
    assert signature.inputs.inputs[0].shape == (-1, -1, -1) and str(signature.inputs.inputs[0].type) == "uint8"
    assert loaded.metadata.saved_input_example_info is not None


def test_all_seeds_vote_with_plain_mlflow_and_none_does_unless_it_is_asked(tmp_path: Path) -> None:
    package, model = make_package(tmp_path, others=(7, 4))
    loaded, stack = mlflow.pyfunc.load_model(str(package)), images()
    votes = load_seed_votes(package / "artifacts" / "model")
    assert votes.seeds == (0, 7, 4) and votes.registered.generator is not None
    alone = np.stack([model.predict_mask(image)[0] for image in stack])
    np.testing.assert_allclose(loaded.predict(stack), alone, atol=1e-6)
    by_seed = [np.stack([m.predict_mask(image)[0] for image in stack]) for m in votes.models.values()]
    mean, spread = np.mean(by_seed, axis=0), np.std(by_seed, axis=0)
    assert spread.max() > 0.01
    np.testing.assert_allclose(loaded.predict(stack, params={"seeds": "all"}), mean, atol=1e-6)
    mask = loaded.predict(stack, params={"seeds": "all", "task": "mask"})
    assert np.array_equal(mask, np.stack([votes.on_image(image).mask for image in stack]).astype(np.uint8))
    np.testing.assert_allclose(loaded.predict(stack, params={"task": "disagreement"}), spread, atol=1e-5)
    with pytest.raises(ValueError, match="unknown seeds 'some': choose registered or all"):
        loaded.predict(stack, params={"seeds": "some"})
    card = (package / "artifacts" / "README.md").read_text()
    assert "beside it those of seeds 7, 4 (1.5 MB for each seed)" in card and "the vote has not been scored" in card
    lone, _ = make_package(tmp_path / "lone")
    with pytest.raises(UserError, match="model of one seed has nobody to vote"):
        mlflow.pyfunc.load_model(str(lone)).predict(stack, params={"seeds": "all"})
    assert "nobody" not in card and "The segmenter of seed 0 (1.5 MB)." in (lone / "artifacts/README.md").read_text()


def test_no_pickle_and_no_bytecode_anywhere(tmp_path: Path) -> None:
    package, _ = make_package(tmp_path)
    mlflow.pyfunc.load_model(str(package))
    for path in (p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        head = path.read_bytes()[:4]
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt", ".pyc"), path
        assert head[:2] != b"PK" and not (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"), path
    fresh, _ = make_package(tmp_path / "again")
    assert not list(fresh.rglob("__pycache__"))
    assert (fresh / "artifacts" / "README.md").read_text().startswith("# sage-gan")
    assert json.loads((fresh / "artifacts" / "provenance.json").read_text())["seen_shas"] == ["c" * 64]


def test_package_runs_on_its_own_code_with_pickle_forbidden(tmp_path: Path) -> None:
    package, model = make_package(tmp_path)
    found = run_loader(sys.executable, package, tmp_path, path_filter=True)
    assert found["code"].startswith(str(package))
    check_result(found, model)


def run_loader(python: str, package: Path, tmp_path: Path, *, path_filter: bool = False) -> dict:
    """What LOADER prints in a process of its own, away from the checkout."""
    np.save(tmp_path / "images.npy", images())
    script = tmp_path / "loader.py"
    prelude = ""
    if path_filter:
        # The editable install would offer the checkout's package: only the one inside the model may be found.
        installed = [entry for entry in sys.path if "site-packages" in entry]
        prelude = f"import sys\nsys.path = [p for p in sys.path if not p.startswith({str(REPO)!r})] + {installed!r}\n"
        prelude += "sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]\n"
    script.write_text(prelude + LOADER)
    environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR", "LANG", "OMP_NUM_THREADS")}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": ""}
    done = subprocess.run(
        [python, str(script), str(package), str(tmp_path / "images.npy")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


REPO = Path(__file__).resolve().parents[3]


def check_result(found: dict, model: Model) -> None:
    expected = np.stack([model.predict_mask(image)[0] for image in images()])
    np.testing.assert_allclose(np.array(found["probability"]), expected, atol=1e-5)
    assert set(np.unique(found["mask"])) <= {0, 1}
    assert np.array(found["generate"]).shape == images().shape
    assert not found["ray"]


@pytest.mark.slow
def test_fresh_environment_with_logged_requirements_only(tmp_path: Path) -> None:
    package, model = make_package(tmp_path)
    lines = (package / "requirements.txt").read_text().split()
    assert lines == requirements(code_closure().third_party)
    python = tmp_path / "venv" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(tmp_path / "venv")],
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(package / "requirements.txt")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=tmp_path)
        if done.returncode and "No matching distribution" in done.stderr + done.stdout:
            pytest.skip("the package index offers none of the pinned versions here")
        assert done.returncode == 0, done.stderr[-3000:]
    check_result(run_loader(str(python), package, tmp_path), model)


def test_model_names_resolve_or_say_what_is_near(tmp_path: Path, home: Home) -> None:
    package, _ = make_package(tmp_path)
    run = home.runs / "toy-s0" / "artifacts"
    run.mkdir(parents=True)
    make_model(run / "model", resolve(preset="tiny_sage_gan").config)
    (run.parent / "record.json").write_text('{"run_id": "toy-s0"}')
    spec_path = run / "model" / "model.json"
    spec_path.write_text(json.dumps(json.loads(spec_path.read_text()) | {"weights_sha": "12"}))
    assert resolve_model("toy-s0", home).kind == "run"
    assert resolve_model(run.parent, home).run_id == "toy-s0"
    assert resolve_model(run / "model", home).identity()["weights_sha"] == "12"
    packaged = resolve_model(package, home)
    assert packaged.run_id == "final-x-s0" and packaged.identity()["weights_sha"] == "d" * 64
    assert packaged.config(home).data.image_size == (32, 48)
    for text, what in (
        ("toy-s1", "no such model: toy-s1: did you mean toy-s0?"),
        ("models:/none/1", "no such model: models:/none: nothing is registered yet"),
        (str(tmp_path / "nothing"), "no such model"),
        (str(home.path), "no model in folder"),
        ("", "no model named"),
    ):
        with pytest.raises(UserError, match=what.replace("?", r"\?")):
            resolve_model(text, home)


Save = Callable[[Path], None]
PICKLES: dict[str, Save] = {
    "weights.pt": lambda path: torch.save({"w": torch.zeros(2)}, path),
    "model.safetensors": lambda path: torch.save({"w": torch.zeros(2)}, path),
    "weights.bin": lambda path: torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False),
    "segmenter.safetensors": lambda path: torch.save({"w": torch.zeros(2)}, path),
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickled_weights_are_refused_as_file_and_as_folder(name: str, tmp_path: Path, home: Home) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "model.json").write_text("{}")
    PICKLES[name](folder / name)
    with pytest.raises(UserError, match="pickled weights are not loaded"):
        resolve_model(folder / name, home)
    with pytest.raises(UserError, match="pickled weights|incomplete|unreadable"):
        resolve_model(folder, home).load()


def test_card_tells_data_scores_choice_and_limits(tmp_path: Path) -> None:
    package, _ = make_package(tmp_path, generator=False)
    card = (package / "artifacts" / "README.md").read_text()
    told = ("## Data", "`ffffffffffffffff`", "| dice |", "mean over images", "the rule", "## Limits", "No generator")
    assert [text for text in told if text not in card] == []
    assert '"task": "generate"' not in card
    short = description(card, 300)
    assert len(short) <= 304 and short.endswith("...\n")
    with pytest.raises(UserError, match="model without generator"):
        mlflow.pyfunc.load_model(str(package)).predict(images(), params={"task": "generate"})
