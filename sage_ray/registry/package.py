"""The registered form of a model: an MLflow pyfunc from code, with safetensors weights and the few modules it needs."""

from __future__ import annotations

import ast
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from sage_ray.files import write_json
from sage_ray.imaging.seed_votes import pack_seeds
from sage_ray.record.model_reference import PROVENANCE_FILE

ENTRY_MODULES = ("sage_ray.imaging.model", "sage_ray.imaging.seed_votes")
"""What `pyfunc_model.py` imports of ours; all that these import travels with the model."""
ALWAYS_REQUIRED = ("mlflow", "numpy", "safetensors", "torch")
SCORES_FILE = "test_scores.parquet"
CARD_FILE = "README.md"
EXAMPLE_PIXELS = 64


@dataclass(frozen=True)
class CodeClosure:
    """Closure of the imports of some modules."""

    modules: dict[str, Path]
    """Our modules by dotted name, each with its file."""
    third_party: set[str]
    """Top-level names of everything that is neither ours nor of the standard library."""


def code_closure(entries: tuple[str, ...] = ENTRY_MODULES) -> CodeClosure:
    """Our modules and third-party packages that `entries` import, lazily or not, at any distance."""
    root = Path(str(files("sage_ray")))
    modules: dict[str, Path] = {}
    outside: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        path = _module_file(root, name)
        if name in modules or path is None:
            continue
        modules[name] = path
        if "." in name:
            waiting.append(name.rpartition(".")[0])
        for imported in _imports(path, name):
            if imported.split(".")[0] == "sage_ray":
                waiting.append(imported)
            else:
                outside.add(imported.split(".")[0])
    return CodeClosure(modules, {name for name in outside if name not in sys.stdlib_module_names})


def _module_file(root: Path, name: str) -> Path | None:
    # `from sage_ray.models import build` names an attribute as if it were a module: it has no file and is passed over.
    path = root.joinpath(*name.split(".")[1:])
    if path.is_dir():
        return path / "__init__.py" if (path / "__init__.py").is_file() else None
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else None


def _imports(path: Path, name: str) -> set[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(part for part in (parent, node.module) if part)
            found |= {module} | ({f"{module}.{alias.name}" for alias in node.names} if "sage_ray" in module else set())
    return found


def requirements(third_party: set[str]) -> list[str]:
    """Pinned pip requirements, sorted, without local version labels such as +cpu."""
    owners = packages_distributions()
    names = {owners[name][0] for name in third_party if name in owners} | set(ALWAYS_REQUIRED)
    return sorted(f"{name.lower()}=={version(name).split('+')[0]}" for name in names)


def signature() -> ModelSignature:
    """(N,H,W) uint8 of any N, H, W to (N,H,W) float32, with parameters `task`, `seed` and `seeds`."""
    return ModelSignature(
        Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1))]),
        Schema([TensorSpec(np.dtype("float32"), (-1, -1, -1))]),
        ParamSchema(
            [
                ParamSpec("task", "string", "probability"),
                ParamSpec("seed", "long", 0),
                ParamSpec("seeds", "string", "registered"),
            ]
        ),
    )


def example() -> np.ndarray:
    """A drawn disc on a grey ground, (1, 64, 64) uint8."""
    rows, columns = np.mgrid[:EXAMPLE_PIXELS, :EXAMPLE_PIXELS]
    centre = EXAMPLE_PIXELS / 2
    inside = (rows - centre) ** 2 + (columns - centre) ** 2 < (EXAMPLE_PIXELS / 4) ** 2
    return np.where(inside, 200, 60 + columns // 4).astype(np.uint8)[None]


def save_package(
    target: Path,
    model_folders: Mapping[int, Path],
    scores: pd.DataFrame,
    provenance: dict[str, Any],
    card: str,
) -> Path:
    """Write the MLflow model folder `target` (replaced if there) and return it.

    Args:
        target: folder to write.
        model_folders: by seed, the registered seed first: segmenter.safetensors, generator.safetensors (if any),
            model.json. Of the other seeds the segmenters are packed beside it, for their vote.
        scores: test scores of all seeds, one row per image and score.
        provenance: what made the model; kept as provenance.json.
        card: the model card in Markdown.
    """
    needed = code_closure()
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        code = scratch / "sage_ray"
        root = Path(str(files("sage_ray")))
        for path in needed.modules.values():
            copy = code / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        (registered, model_folder), *others = model_folders.items()
        shutil.copytree(model_folder, scratch / "model")
        pack_seeds(scratch / "model", registered, dict(others))
        scores.to_parquet(scratch / SCORES_FILE, index=False)
        write_json(scratch / PROVENANCE_FILE, provenance)
        (scratch / CARD_FILE).write_text(card, encoding="utf-8")
        entry = scratch / "pyfunc_model.py"
        shutil.copyfile(root / "registry" / "pyfunc_model.py", entry)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        mlflow.pyfunc.save_model(
            str(target),
            python_model=str(entry),
            code_paths=[str(code)],
            artifacts={
                "model": str(scratch / "model"),
                "test_scores": str(scratch / SCORES_FILE),
                "provenance": str(scratch / PROVENANCE_FILE),
                "card": str(scratch / CARD_FILE),
            },
            signature=signature(),
            input_example=example(),
            pip_requirements=requirements(needed.third_party),
        )
    for cache in list(target.rglob("__pycache__")):
        shutil.rmtree(cache, ignore_errors=True)
    return target
