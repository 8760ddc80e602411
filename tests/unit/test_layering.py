"""The layers of docs/ARCHITECTURE.md: every import of the package, lazy ones too, points up only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "sage_ray"

BASE = {"errors"}
DATA = BASE | {"identity", "sections", "config"}
MATHS = {"models", "losses", "metrics"}
TRAINING = DATA | MATHS | {"data", "stages", "statistics"}
IMAGING = BASE | {"models", "metrics", "statistics"}
RUNTIME = TRAINING | {"training", "imaging", "console", "display"}
SEARCH = RUNTIME | {"runtime"}
REGISTRY = SEARCH | {"search"}

# What each layer may import of ours, beside itself.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    # What progress is told to; it knows nothing of ours, so that any layer from runtime on may name its type.
    "console": {"display"},
    "display": set(),
    "identity": set(),
    "sections": BASE | {"identity"},
    "config": BASE | {"identity", "sections"},
    "data": DATA,
    "models": BASE,
    "losses": BASE,
    "metrics": BASE,
    "statistics": BASE,
    "stages": DATA,
    "training": TRAINING,
    "imaging": IMAGING,
    "runtime": RUNTIME,
    "search": SEARCH,
    "registry": REGISTRY,
    "terminal": REGISTRY | {"registry", "package"},
    "package": REGISTRY | {"registry"},
}

# These travel inside a registered model or draw its pictures: they are below runtime, though they lie in registry/.
IMAGING_MODULES = {"registry", "registry.predictor", "registry.particles", "registry.pictures", "registry.tiles"}

# Third parties, and the only modules that may import them ("*" ends a prefix).
ONLY: dict[str, tuple[str, ...]] = {
    "ray": ("sage_ray.runtime.*", "sage_ray.search.*"),
    "optuna": ("sage_ray.search.tuner", "analysis.importance"),
    "mlflow": ("sage_ray.runtime.mlflow_sink", "sage_ray.registry.*", "analysis.collect"),
    "torchvision": (),
}

# Modules that travel inside a registered model, and the third parties that they may need.
LIGHT = (
    "sage_ray.identity",
    "sage_ray.sections",
    "sage_ray.config",
    "sage_ray.models.*",
    "sage_ray.losses.*",
    "sage_ray.registry.predictor",
)
LIGHT_PARTIES = {"torch", "numpy", "safetensors", "yaml", "pydantic"}

# `sage-ray --help` must not wait for these: the terminal imports them inside its verbs only.
HEAVY = {"torch", "ray", "mlflow", "optuna", "numpy", "pandas", "pyarrow", "matplotlib", "scipy", "skimage", "kornia"}
TERMINAL_MODULES = (
    "cli", "shell", "console", "display", "doctor", "report", "show_config", "verb_answers", "disk_answers",
)  # fmt: skip


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(module == p or (p.endswith(".*") and module.startswith(p[:-1])) for p in patterns)


def imports_of(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Absolute names of all modules that a source imports, wherever in it the import stands."""
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin
            # `from sage_ray import runtime` names a layer in its second half.
            yield from (f"{origin}.{alias.name}" for alias in node.names if origin == "sage_ray")
        elif isinstance(node, ast.Call) and _is_import_call(node.func) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__", "importorskip", "try_import")


def layer_of(module: str) -> str | None:
    """Layer of a module of ours; None for a name that is no module, such as `sage_ray.__version__`."""
    inner = module.removeprefix("sage_ray").removeprefix(".")
    if not inner:
        return "package"
    if inner in IMAGING_MODULES:
        return "imaging"
    first = inner.split(".")[0]
    if first in ALLOWED:
        return first
    return "terminal" if first in TERMINAL_MODULES else None


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """One line for each import of `source` that breaks a rule."""
    found = []
    layer = layer_of(module) if module.startswith("sage_ray") else None
    if module.startswith("sage_ray.") and layer is None:
        found.append(f"{module} belongs to no layer: name it in tests/unit/test_layering.py and docs/ARCHITECTURE.md")
    for name in sorted(set(imports_of(ast.parse(source), module, is_package))):
        party = name.split(".")[0]
        if party == "sage_ray":
            other = layer_of(name)
            if layer and other and other != layer and other not in ALLOWED[layer] and name != "sage_ray":
                found.append(f"{module} ({layer}) imports {name} ({other})")
            continue
        if party in ONLY and not matches(module, ONLY[party]):
            found.append(f"{module} imports {name}; only {ONLY[party] or 'nothing'} may")
        third = party not in sys.stdlib_module_names
        if third and matches(module, LIGHT) and party not in LIGHT_PARTIES:
            found.append(f"{module} imports {name}; it travels inside a registered model")
    if module.startswith("analysis."):
        found += [
            f"{module} imports {n}"
            for n in imports_of(ast.parse(source), module, is_package)
            if n.split(".")[0] in ("torch", "ray")
        ]
    return found


def heavy_at_import(source: str) -> list[str]:
    """Heavy third parties that a source imports when it is itself imported."""
    names: list[str] = []
    waiting: list[ast.AST] = list(ast.parse(source).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        names += imports_of(node, "sage_ray.cli", False) if isinstance(node, ast.Import | ast.ImportFrom) else []
        waiting += list(ast.iter_child_nodes(node))
    return [name for name in names if name.split(".")[0] in HEAVY]


def sources() -> list[tuple[Path, str]]:
    files = sorted(PACKAGE.rglob("*.py")) + sorted((REPO / "analysis").glob("*.py"))
    return [(path, ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")) for path in files]


def test_every_import_of_the_package_points_up() -> None:
    found = [
        line
        for path, name in sources()
        for line in violations(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_the_terminal_imports_nothing_heavy_before_a_verb_runs() -> None:
    found = {name: heavy_at_import((PACKAGE / f"{name}.py").read_text(encoding="utf-8")) for name in TERMINAL_MODULES}
    assert not any(found.values()), found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sage_ray.training.loop", "import ray"),
        ("sage_ray.training.loop", "def f():\n    from mlflow import MlflowClient"),
        ("sage_ray.training.loop", "from sage_ray.runtime.home import Home"),
        ("sage_ray.training.loop", "from ..runtime import home"),
        ("sage_ray.models.unet", "from sage_ray.config import SegmenterConfig"),
        ("sage_ray.models.unet", "from sage_ray import config"),
        ("sage_ray.models.unet", "import scipy"),
        ("sage_ray.losses.perceptual", "import torchvision"),
        ("sage_ray.losses.perceptual", "m = __import__('torchvision.models')"),
        ("sage_ray.data.prepare", "if TYPE_CHECKING:\n    from sage_ray.training.draws import KeyedDraws"),
        ("sage_ray.search.driver", "import optuna"),
        ("sage_ray.search.driver", "import importlib\nimportlib.import_module('optuna.storages')"),
        ("sage_ray.search.driver", "from sage_ray.registry.best import best"),
        ("sage_ray.runtime.launch", "from sage_ray.registry.models import resolve_model"),
        ("sage_ray.registry.predictor", "import pandas"),
        ("sage_ray.cli", "import optuna"),
        ("sage_ray.helpers", "import json"),
        ("sage_ray.console", "from sage_ray.search.study import StudyStatus"),
        ("sage_ray.registry.final", "from sage_ray.shell import Answer"),
        ("analysis.tables", "import torch"),
        ("analysis.tables", "import mlflow"),
    ],
)
def test_a_violation_is_seen(module: str, source: str) -> None:
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "sage_ray.training.loop",
            "import torch\nfrom sage_ray.stages.store import StageStore\nfrom .state import TrainState",
        ),
        ("sage_ray.runtime.launch", "import ray\nfrom sage_ray.registry.predictor import save_model_folder"),
        ("sage_ray.search.tuner", "import optuna"),
        ("sage_ray.registry.best", "import mlflow\nfrom sage_ray.search.study import status"),
        ("sage_ray.models.unet", "import torch\nimport math\nfrom sage_ray.errors import UserError"),
        ("sage_ray.cli", "def f():\n    from sage_ray.registry.best import best"),
        ("analysis.collect", "import mlflow\nimport pandas"),
    ],
)
def test_a_good_twin_passes(module: str, source: str) -> None:
    assert not violations(source, module)


def test_a_heavy_import_is_seen_at_the_top_but_not_inside_a_verb() -> None:
    assert heavy_at_import("import torch") == ["torch"]
    assert heavy_at_import("try:\n    import ray.tune\nexcept ImportError:\n    pass") == ["ray.tune"]
    assert not heavy_at_import("def verb():\n    import torch")
    assert not heavy_at_import("if TYPE_CHECKING:\n    import torch")
