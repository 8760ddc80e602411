"""Reading a folder of parity vectors: its manifest, arrays, generated weights and tolerances.

The folder is `SAGE_PARITY_DIR`, or the shipped set, vectors/ beside this file. A test module handles cases and says so:

    HANDLES = {"seg_loss": Handled(arrays=(r".+/(logits|target|loss|grad)",), keys=("configs", "consistency_checks"))}

    @pytest.fixture(scope="module")
    def case(parity): return parity.case("seg_loss")

    def test_loss(case):
        for config in case.spec["configs"]:
            case.assert_matches(f"random/{config}/loss", ours(case["random/logits"]), double=False)

`test_coverage.py` fails when the manifest has a case, an array or a key that no module's HANDLES matches, so variants
must be taken from the manifest (`case.names(pattern)`), never from a list in the test. No test holds a number of the
shipped set either: sizes come from the arrays, and what the manifest says in words is read there (`case.stated`).
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHIPPED = Path(__file__).resolve().parent / "vectors"
FACT_FILES = ("facts.json", "published_training_log.csv")
BASE_KEYS = frozenset({"id", "file", "what", "tolerance", "arrays"})
MANIFEST_KEYS = frozenset(
    {"format", "made_with", "origin", "precision", "weight_rule", "weight_rule_test", "layout", "set"}
    | {"cases", "weights", "observed_float32"}
)
# What a float64 implementation must meet where stored arrays are float32 (manifest, note of case attention_unet).
DOUBLE_RTOL, DOUBLE_ATOL = 1e-5, 1e-6


def parity_folder() -> Path:
    """The folder of parity vectors, from the environment or the shipped one."""
    return Path(os.environ.get("SAGE_PARITY_DIR") or SHIPPED)


@dataclass(frozen=True)
class Handled:
    """What of a case a test module checks: full-match patterns of array names, and the case's extra keys."""

    arrays: tuple[str, ...]
    keys: tuple[str, ...] = ()


class Case:
    """One case of the manifest: `spec` (its JSON) and its arrays by name."""

    def __init__(self, spec: Mapping[str, Any], folder: Path) -> None:
        self.spec, self.id = spec, str(spec["id"])
        with np.load(folder / spec["file"], allow_pickle=False) as stored:
            self._arrays = {name: stored[name] for name in stored.files}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def names(self, pattern: str) -> list[str]:
        """Array names that match `pattern` fully, in file order."""
        return [name for name in self._arrays if re.fullmatch(pattern, name)]

    def groups(self, pattern: str) -> list[str]:
        """Distinct first groups of `pattern` over all array names that match it fully, in file order."""
        found = [re.fullmatch(pattern, name) for name in self._arrays]
        return list(dict.fromkeys(match.group(1) for match in found if match))

    def stated(self, pattern: str, array: str | None = None) -> tuple[str, ...]:
        """Groups of `pattern` in what the manifest says of the case (or of one array); it must be said exactly once."""
        text = self.spec["arrays"][array]["meaning"] if array else self.spec["what"]
        found = list(re.finditer(pattern, text))
        where = f"case {self.id}, {array or 'what'}"
        assert len(found) == 1, f"{where}: {pattern!r} is said {len(found)} times, not once, in {text!r}"
        return found[0].groups()

    def number(self, pattern: str, array: str | None = None) -> int:
        """The whole number that is the only group of `pattern`, as `stated`."""
        return int(self.stated(pattern, array)[0])

    def tolerance(self, name: str, kind: str | None = None) -> Any:
        """The tolerance entry for an array: of `kind` (default: end of its name, no digits), else the case's own."""
        table = self.spec["tolerance"]
        kind = kind or name.rsplit("/", 1)[-1].rstrip("0123456789")
        if kind in table:
            return table[kind]
        if "rtol" in table or "atol" in table:
            return table
        raise KeyError(f"case {self.id}: the manifest gives no tolerance for {name} (kind {kind})")

    def assert_matches(self, name: str, actual: Any, *, kind: str | None = None, double: bool = False) -> None:
        """Assert that `actual` meets the stored array within the manifest's tolerance.

        Args:
            name: array name.
            actual: our array or scalar (numpy, or anything numpy converts).
            kind: key of the tolerance, if it is not the last part of `name` without digits.
            double: our value was computed in float64, so the tighter float64 tolerance holds.
        """
        expected, actual = np.asarray(self[name]), np.asarray(actual)
        label = f"{self.id}: {name}"
        assert actual.shape == expected.shape, f"{label}: shape {actual.shape}, expected {expected.shape}"
        rule = self.tolerance(name, kind)
        if rule == "exact":
            np.testing.assert_array_equal(actual, expected, err_msg=label)
        elif "rel_l2_float32" in rule:
            assert_rel_l2(actual, expected, rule["rel_l2_float64" if double else "rel_l2_float32"], label)
        elif name.endswith("param_grads"):
            assert_columns(actual, expected, rule["rtol"], label, double)
        else:
            rtol, atol = rule.get("rtol", 0.0), rule.get("atol", 0.0)
            if double:
                rtol, atol = min(rtol, DOUBLE_RTOL), min(atol, DOUBLE_ATOL) if atol else 0.0
            assert_close(actual, expected, rtol, atol, label)


def assert_close(actual: np.ndarray, expected: np.ndarray, rtol: float, atol: float, label: str) -> None:
    """Assert |actual - expected| <= atol + rtol |expected| everywhere, both finite."""
    assert np.isfinite(actual).all(), f"{label}: not finite"
    np.testing.assert_allclose(actual.astype(np.float64), expected.astype(np.float64), rtol, atol, err_msg=label)


def assert_rel_l2(actual: np.ndarray, expected: np.ndarray, limit: float, label: str) -> None:
    """Assert that the L2 distance over the L2 norm of `expected` is at most `limit`."""
    error = np.linalg.norm((actual.astype(np.float64) - expected).ravel()) / np.linalg.norm(expected.ravel())
    assert error <= limit, f"{label}: relative L2 distance {error:.3g} is above {limit}"


def assert_columns(actual: np.ndarray, expected: np.ndarray, rtol: float, label: str, double: bool = False) -> None:
    """Compare rows [tensor index, L2 norm, sum]: errors at most `rtol` times the largest value of their column.

    The manifest's tolerance speaks of norms. Sums of up to millions of float32 gradients, in which single relu and
    max-pool switches flip, hold in float64 alone: there both columns must meet the tight float64 tolerance.
    """
    np.testing.assert_array_equal(actual[:, 0], expected[:, 0], err_msg=f"{label}: tensor indices")
    columns = ((1, "norm"), (2, "sum")) if double else ((1, "norm"),)
    for column, what in columns:
        error = np.abs(actual[:, column] - expected[:, column])
        worst = int(error.argmax())
        limit = (min(rtol, DOUBLE_RTOL) if double else rtol) * np.abs(expected[:, column]).max()
        assert error[worst] <= limit, f"{label}: {what} of tensor {actual[worst, 0]:.0f} is off by {error[worst]:.3g}"


class Parity:
    """A folder of parity vectors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.specs: dict[str, dict[str, Any]] = {spec["id"]: spec for spec in self.manifest["cases"]}

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """The facts of facts.json."""
        return dict(json.loads(self.fact_file("facts.json").read_text(encoding="utf-8")))

    def fact_file(self, name: str) -> Path:
        """A file of facts about the reference, this folder's own, else the shipped one.

        Facts say when the published log drops its learning rate, so facts and log are of one folder.
        """
        own = all((self.folder / each).is_file() for each in FACT_FILES)
        return (self.folder if own else SHIPPED) / name

    def case(self, case_id: str) -> Case:
        """The case with its arrays loaded; a manifest without it fails the test that asks."""
        assert case_id in self.specs, f"{self.folder / 'manifest.json'} has no case {case_id}"
        return Case(self.specs[case_id], self.folder)

    def tensors(self, group: str) -> Iterator[tuple[str, np.ndarray]]:
        """(neutral name, float32 array) of each tensor of a weight group in list order, check sums verified."""
        entry = self.manifest["weights"][group]
        for row in entry["tensors"]:
            array = generate(entry["seed"], row[0], row[2], row[3], row[4], row[5])
            verify(array, row[6:10], f"{group}: {row[1]}")
            yield row[1], array

    def weights(self, group: str) -> dict[str, np.ndarray]:
        """All tensors of a weight group by neutral name, float32; check sums verified."""
        return dict(self.tensors(group))

    def observed(self, name: str) -> list[list[Any]]:
        """Rows of observed_float32 that begin with `name`, without it and the set's name."""
        rows = [row for row in self.manifest.get("observed_float32", []) if row[0] == name]
        assert all(row[1] == self.manifest["set"] for row in rows), "observed_float32 belongs to another set"
        return [row[2:] for row in rows]

    def rows(self, group: str) -> list[tuple[int, str]]:
        """(tensor index, neutral name) of a weight group in list order, running statistics included."""
        return [(int(row[0]), str(row[1])) for row in self.manifest["weights"][group]["tensors"]]


def generate(seed: int, index: int, shape: Sequence[int], kind: str, p1: float, p2: float) -> np.ndarray:
    """The float32 tensor that the manifest's weight rule gives. Raises ValueError on an unknown kind."""
    generator = np.random.default_rng([seed, index])
    if kind == "normal":
        return (p1 + p2 * generator.standard_normal(tuple(shape))).astype(np.float32)
    if kind == "uniform":
        return (p1 + (p2 - p1) * generator.random(tuple(shape))).astype(np.float32)
    raise ValueError(f"weight rule: unknown kind {kind!r}; the manifest knows normal and uniform")


def verify(array: np.ndarray, sums: Sequence[float], label: str) -> None:
    """Assert the check sums [sum, sum of squares, first, last] of a generated tensor."""
    values = array.astype(np.float64).ravel()
    actual = (values.sum(), np.square(values).sum(), values[0], values[-1])
    # Only the order of summation may differ between machines.
    limits = (1e-9 * np.abs(values).sum(), 1e-9 * actual[1], 0.0, 0.0)
    for what, got, wanted, limit in zip(("sum", "sum of squares", "first", "last"), actual, sums, limits, strict=True):
        assert abs(got - wanted) <= limit + 1e-12, f"{label}: {what} is {got!r}, the manifest says {wanted!r}"


def handled_by_modules() -> dict[str, list[tuple[str, Handled]]]:
    """Case id to (module, Handled) of every test module in this folder that declares HANDLES."""
    found: dict[str, list[tuple[str, Handled]]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        for case_id, handled in getattr(module, "HANDLES", {}).items():
            found.setdefault(case_id, []).append((path.stem, handled))
    return found
