"""The rooms of docs/ARCHITECTURE.md: every import points up, no circle, no name twice, and files that can be read."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "sage_ray"
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

# From top to bottom. A module imports its own room and rooms above it, also for types and inside functions.
ROOMS = (
    *("errors", "files", "store_faults", "bucket_client", "object_store", "followed", "leases", "locks"),
    *("watch", "durations", "addresses", "termination", "startup", "grey_range", "foreground_rule"),
    *("published_weights", "notebook_view", "argument_kinds", "near_paths", "markdown_texts"),
    *("identity", "section_base", "data_sections", "network_sections", "runtime_section", "render_section", "sections"),
    *("pair_source", "system_rules", "config_rules", "config"),
    "data",
    *("models", "losses", "metrics", "statistics"),
    "imaging",
    "rendering",
    "stages",
    "training",
    "record",
    "runtime",
    "evaluation",
    "study",
    "search",
    "registry",
    "apply",
    "upkeep",
    "dashboards",
    "analysis",
    "figures",
    "reports",
    "terminal",
    "by_hand",
    "api",
    "package",
)

GROUND = {
    *("errors", "files", "store_faults", "bucket_client", "object_store", "followed", "leases", "locks"),
    *("watch", "durations", "addresses", "termination", "startup", "grey_range", "foreground_rule"),
    *("published_weights", "notebook_view", "argument_kinds", "near_paths", "markdown_texts"),
}
CONFIG = {
    *("identity", "section_base", "data_sections", "network_sections", "runtime_section", "render_section", "sections"),
    *("pair_source", "system_rules", "config_rules", "config"),
}
SETTINGS = ("section_base", "data_sections", "network_sections", "runtime_section", "sections")
RECORDED = GROUND | CONFIG | {"data"}
# Rooms that see less than all that is above them.
SEES: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "watch": set(),
    "durations": set(),
    "termination": set(),
    "startup": set(),
    "grey_range": set(),
    "foreground_rule": set(),
    "published_weights": {"errors", "files"},
    "notebook_view": set(),
    "argument_kinds": {"errors"},
    "near_paths": set(),
    "markdown_texts": set(),
    "store_faults": {"errors"},
    "bucket_client": {"errors", "store_faults"},
    "object_store": {"errors", "files", "store_faults", "bucket_client"},
    "leases": {"errors", "object_store"},
    "followed": {"errors", "files", "object_store"},
    "locks": {"leases", "object_store", "followed"},
    "addresses": set(),
    "identity": set(),
    # Formulas: plain keyword arguments, never a config.
    "models": GROUND,
    "losses": GROUND,
    "metrics": GROUND,
    "statistics": GROUND,
    "imaging": GROUND | {"data", "models", "metrics"},
    "rendering": GROUND | {"data", "models", "losses", "imaging"},
    "stages": RECORDED,
    "study": RECORDED | {"metrics", "stages", "training"},
    "apply": RECORDED | {"metrics", "models", "statistics", "imaging", "training", "record"},
    "analysis": RECORDED | {"metrics", "statistics", "imaging", "record", "study"},
}

# Third parties, and the only modules that may import them ("*" ends a prefix).
ONLY: dict[str, tuple[str, ...]] = {
    "ray": ("sage_ray.runtime.*", "sage_ray.search.*"),
    "optuna": (
        *("sage_ray.search.sampling", "sage_ray.search.searcher", "sage_ray.search.storage"),
        *("sage_ray.search.rebuild", "sage_ray.search.earlier"),
        *("sage_ray.record.optuna_store", "sage_ray.record.patient_storage", "sage_ray.record.sole_writer"),
        *("sage_ray.record.trial_writes", "sage_ray.dashboards.study_copies", "sage_ray.dashboards.home_studies"),
        "sage_ray.analysis.setting_importance",
    ),
    "optuna_dashboard": ("sage_ray.dashboards.optuna_page",),
    "mlflow": (
        *("sage_ray.record.mlflow_client", "sage_ray.record.mlflow_mirror", "sage_ray.record.mlflow_removal"),
        "sage_ray.record.mlflow_calls",
        "sage_ray.record.model_versions",
        *("sage_ray.registry.*", "sage_ray.analysis.tidy"),
    ),
    "torch": (
        *("sage_ray.data.sample_numbers", "sage_ray.data.strong_augment"),
        *("sage_ray.data.augment", "sage_ray.models", "sage_ray.models.*", "sage_ray.losses.*"),
        "sage_ray.published_weights",
        *("sage_ray.imaging.model", "sage_ray.record.provenance", "sage_ray.upkeep.stage_needs"),
        *(
            "sage_ray.rendering.*",
            "sage_ray.stages.*",
            "sage_ray.training.*",
            "sage_ray.runtime.*",
            "sage_ray.evaluation.*",
        ),
        *("sage_ray.search.*", "sage_ray.registry.*", "sage_ray.apply.*", "sage_ray.terminal.*"),
    ),
    "obstore": ("sage_ray.object_store", "sage_ray.bucket_client"),
    "boto3": ("sage_ray.bucket_client",),
    "torchvision": (),
}

# Modules that travel inside a registered model, and the third parties that they may need.
LIGHT = (*(f"sage_ray.{name}" for name in sorted(CONFIG)), "sage_ray.models.*", "sage_ray.losses.*")
LIGHT_PARTIES = {"torch", "numpy", "safetensors", "yaml", "pydantic"}
LIGHT += (
    "sage_ray.imaging.model",
    "sage_ray.imaging.seed_votes",
    "sage_ray.imaging.tiles",
    "sage_ray.files",
    "sage_ray.published_weights",
    "sage_ray.errors",
    "sage_ray.grey_range",
    "sage_ray.foreground_rule",
)

# `sage-ray --help` must not wait for these: the terminal imports them inside its verbs only.
HEAVY = {"torch", "ray", "mlflow", "optuna", "numpy", "pandas", "pyarrow", "matplotlib", "scipy", "skimage", "kornia"}


def module_name(path: Path) -> str:
    """Dotted name of a file of the package."""
    return ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES |= {module_name(path): path.read_text(encoding="utf-8") for path in sorted((REPO / "analysis").glob("*.py"))}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}


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
            # `from sage_ray import runtime` and `from sage_ray.runtime import launch` name modules at their end.
            inner = [f"{origin}.{alias.name}" for alias in node.names]
            inner = [name for name in inner if origin == "sage_ray" or name in SOURCES]
            yield from inner
            if len(inner) < len(node.names):
                yield origin
        elif isinstance(node, ast.Call) and _is_import_call(node.func) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__", "importorskip", "try_import")


def room_of(module: str) -> str | None:
    """Room of a module of ours; None for a name that is no module, such as `sage_ray.__version__`."""
    inner = module.removeprefix("sage_ray").removeprefix(".")
    first = inner.split(".")[0]
    if first in ("", "__main__"):
        return "package"
    return first if first in ROOMS else None


def may_import(room: str, other: str) -> bool:
    """Whether a module in `room` may import one in `other`."""
    if room == other:
        return True
    return other in SEES.get(room, set(ROOMS[: ROOMS.index(room)]))


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """One line for each import of `source` that breaks a rule."""
    found = []
    room = room_of(module) if module.startswith("sage_ray") else "scripts"
    if room is None:
        found.append(f"{module} is in no room: name it in tests/unit/test_layering.py and docs/ARCHITECTURE.md")
    for name in sorted(set(imports_of(ast.parse(source), module, is_package))):
        party = name.split(".")[0]
        if party == "sage_ray":
            other = room_of(name)
            # The package itself holds the version, which provenance and the terminal name.
            if name == "sage_ray" or other is None or room is None:
                continue
            if room == "scripts":
                found += [f"{module} imports {name}; scripts import the analysis alone"] * (other != "analysis")
            elif not may_import(room, other):
                found.append(f"{module} ({room}) imports {name} ({other})")
            continue
        if party in ONLY and not matches(module, ONLY[party]):
            found.append(f"{module} imports {name}; only {ONLY[party] or 'nothing'} may")
        if party not in sys.stdlib_module_names and matches(module, LIGHT) and party not in LIGHT_PARTIES:
            found.append(f"{module} imports {name}; it travels inside a registered model")
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
        names += (
            imports_of(node, "sage_ray.terminal.cli", False) if isinstance(node, ast.Import | ast.ImportFrom) else []
        )
        waiting += list(ast.iter_child_nodes(node))
    return [name for name in names if name.split(".")[0] in HEAVY]


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, directly or through others."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for other in graph[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        reach[start] = seen
    found = {tuple(sorted(m for m in reach[n] if n in reach.get(m, ()))) for n in graph if n in reach[n]}
    return [list(group) for group in sorted(found)]


def import_graph() -> dict[str, set[str]]:
    """Which modules of the package each of them imports, for types and inside functions too."""
    graph: dict[str, set[str]] = {}
    for name, tree in TREES.items():
        is_package = f"{name.replace('.', '/')}/__init__.py"
        found = set(imports_of(tree, name, (REPO / is_package).is_file()))
        # What a name of the package itself comes from is looked up when it is used: no import.
        graph[name] = {other for other in found if other in TREES and other not in (name, "sage_ray")}
    return graph


def twice(names: Iterator[tuple[str, str]]) -> list[str]:
    """Names that stand for more than one thing, each with where they are."""
    places: dict[str, list[str]] = {}
    for name, where in names:
        places.setdefault(name, []).append(where)
    return [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]


def test_every_import_of_the_package_points_up() -> None:
    found = [
        line
        for name, source in SOURCES.items()
        for line in violations(source, name, (REPO / name.replace(".", "/") / "__init__.py").is_file())
    ]
    assert not found, "\n".join(found)


def test_no_modules_import_one_another() -> None:
    assert not circles(import_graph())


def test_no_two_modules_and_no_two_classes_share_a_name() -> None:
    modules = ((name.rsplit(".", 1)[-1], name) for name in SOURCES if not _is_folder(name))
    classes = (
        (node.name, name) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert not (twice(modules) + twice(classes))


def _is_folder(name: str) -> bool:
    return (REPO / name.replace(".", "/")).is_dir()


def test_files_and_functions_can_be_read() -> None:
    long = [
        f"{name}: {lines} lines" for name, source in SOURCES.items() if (lines := source.count("\n")) > MAX_FILE_LINES
    ]
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (lines := (node.end_lineno or 0) - node.lineno + 1):
                long += [f"{name}.{node.name}: {lines} lines"] * (lines > MAX_FUNCTION_LINES)
    assert not long, "\n".join(long)


def code_lines(source: str) -> int:
    """Lines of a source without imports and blank ones."""
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(1 for number, line in enumerate(source.splitlines(), 1) if line.strip() and number not in skipped)


def test_a_few_files_explain_the_training() -> None:
    counts = {
        name: code_lines(SOURCES[f"sage_ray.{name}"]) for name in (*SETTINGS, "training.loop", "training.adversarial")
    }
    assert sum(counts.values()) <= 900, counts


def test_the_terminal_imports_nothing_heavy_before_a_verb_runs() -> None:
    found = {name: heavy_at_import(source) for name, source in SOURCES.items() if room_of(name) == "terminal"}
    assert len(found) > 5 and not any(found.values()), {name: names for name, names in found.items() if names}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sage_ray.training.loop", "import ray"),
        ("sage_ray.training.loop", "def f():\n    from mlflow import MlflowClient"),
        ("sage_ray.training.loop", "from sage_ray.record.home import Home"),
        ("sage_ray.training.loop", "from ..runtime import launch"),
        ("sage_ray.models.unet", "from sage_ray.config import SegmenterConfig"),
        ("sage_ray.models.unet", "from sage_ray import config"),
        ("sage_ray.models.unet", "import scipy"),
        ("sage_ray.losses.perceptual", "import torchvision"),
        ("sage_ray.losses.perceptual", "m = __import__('torchvision.models')"),
        ("sage_ray.data.prepare", "if TYPE_CHECKING:\n    from sage_ray.training.draws import KeyedDraws"),
        ("sage_ray.metrics.definitions", "import torch"),
        ("sage_ray.search.driver", "import optuna"),
        ("sage_ray.search.driver", "import importlib\nimportlib.import_module('optuna.storages')"),
        ("sage_ray.search.driver", "from sage_ray.registry.final import final"),
        ("sage_ray.study.space", "from sage_ray.search.sampling import simulate"),
        ("sage_ray.study.space", "import ray"),
        ("sage_ray.runtime.launch", "from sage_ray.evaluation.locked_test import evaluate"),
        ("sage_ray.imaging.model", "import pandas"),
        ("sage_ray.terminal.cli", "import optuna"),
        ("sage_ray.terminal.cli", "def f():\n    from sage_ray.api import sweep"),
        ("sage_ray.api", "import ray"),
        ("sage_ray.helpers", "import json"),
        ("sage_ray.watch", "from sage_ray.search.study_folder import StudyStatus"),
        ("sage_ray.registry.final", "from sage_ray.terminal.shell import Answer"),
        ("sage_ray.analysis.tables", "import torch"),
        ("sage_ray.analysis.tables", "import mlflow"),
        ("sage_ray.analysis.tables", "from sage_ray.search.best import best"),
        ("analysis.baseline_table", "from sage_ray.record.home import Home"),
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
        ("sage_ray.runtime.launch", "import ray\nfrom sage_ray.imaging.model import save_model_folder"),
        ("sage_ray.search.searcher", "import optuna"),
        ("sage_ray.registry.package", "import mlflow\nfrom sage_ray.search.study_folder import status"),
        ("sage_ray.models.unet", "import torch\nimport math\nfrom sage_ray.errors import UserError"),
        ("sage_ray.terminal.cli", "def f():\n    from sage_ray.search.best import best"),
        ("sage_ray.api", "def f():\n    from sage_ray.terminal.progress import make_watch"),
        ("sage_ray.analysis.tidy", "import mlflow\nimport pandas"),
        ("analysis.baseline_table", "from sage_ray.analysis.baselines import main"),
    ],
)
def test_a_good_twin_passes(module: str, source: str) -> None:
    assert not violations(source, module)


def test_a_heavy_import_is_seen_at_the_top_but_not_inside_a_verb() -> None:
    assert heavy_at_import("import torch") == ["torch"]
    assert heavy_at_import("try:\n    import ray.tune\nexcept ImportError:\n    pass") == ["ray.tune"]
    assert not heavy_at_import("def verb():\n    import torch")
    assert not heavy_at_import("if TYPE_CHECKING:\n    import torch")


def test_a_circle_is_seen_also_through_a_third_module() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert not circles({"a": {"b"}, "b": set(), "c": {"a", "b"}})


def test_a_name_that_stands_for_two_things_is_seen() -> None:
    assert twice(iter([("Watch", "a"), ("Watch", "b"), ("Home", "a")])) == ["Watch: a, b"]


def test_lines_of_code_leave_out_imports_and_blank_lines() -> None:
    assert code_lines("import a\nfrom b import (\n    c,\n)\n\nx = 1\n# why\n") == 2
    assert Counter(code_lines(source) > 0 for source in SOURCES.values())[True] > 100
