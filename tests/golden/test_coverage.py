"""Nothing of the manifest goes unchecked: every case, array, key and weight group has a test that handles it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from parity import BASE_KEYS, MANIFEST_KEYS, Parity, generate, handled_by_modules, parity_folder

PARITY = Parity(parity_folder()) if (parity_folder() / "manifest.json").is_file() else None
CASES = list(PARITY.specs) if PARITY else []
GROUPS = list(PARITY.manifest["weights"]) if PARITY else []
OBSERVED_NAMES = {"loss": "seg_loss", "generator": "style_generator"}


def test_manifest_has_only_known_parts(parity: Parity) -> None:
    assert parity.manifest["format"] == 1
    assert set(parity.manifest) <= MANIFEST_KEYS, "the manifest has parts that no test reads"
    assert parity.specs, "the manifest lists no case"
    assert len(parity.specs) == len(parity.manifest["cases"]), "a case id occurs twice"


@pytest.mark.parametrize("case_id", CASES)
def test_case_is_handled(parity: Parity, case_id: str) -> None:
    handlers = handled_by_modules().get(case_id, [])
    assert len(handlers) == 1, f"case {case_id}: handled by {[name for name, _ in handlers]}, not by exactly one module"
    _, handled = handlers[0]
    spec = parity.specs[case_id]
    unread = [name for name in spec["arrays"] if not any(re.fullmatch(p, name) for p in handled.arrays)]
    assert not unread, f"case {case_id}: no test reads {unread}"
    unknown = set(spec) - BASE_KEYS - set(handled.keys)
    assert not unknown, f"case {case_id}: no test reads the keys {sorted(unknown)}"


@pytest.mark.parametrize("case_id", CASES)
def test_arrays_are_as_the_manifest_says(parity: Parity, case_id: str) -> None:
    case = parity.case(case_id)
    listed = case.spec["arrays"]
    assert set(case) == set(listed)
    for name, entry in listed.items():
        assert list(case[name].shape) == entry["shape"], name
        assert str(case[name].dtype) == entry["dtype"], name


def test_weight_rule(parity: Parity) -> None:
    rule = parity.manifest["weight_rule_test"]
    actual = generate(rule["seed"], rule["index"], rule["shape"], rule["kind"], rule["p1"], rule["p2"])
    np.testing.assert_array_equal(actual.ravel(), np.asarray(rule["values"], np.float32).ravel())


@pytest.mark.parametrize("group", GROUPS)
def test_weight_group(parity: Parity, group: str) -> None:
    """Every group can be generated with its check sums, and some case uses it."""
    names = [name for name, _ in parity.tensors(group)]
    assert names and len(set(names)) == len(names)
    used: set[str] = set()
    for spec in parity.specs.values():
        value = spec.get("weights", [])
        used |= {value} if isinstance(value, str) else set(value)
    assert group in used, f"no case uses the weights {group}"


def test_observed_rows_belong_to_handled_cases(parity: Parity) -> None:
    """`observed_float32` rows are checked by the module of their case (OBSERVED lists its case ids)."""
    checked = set().union(*(getattr(__import__(name), "OBSERVED", set()) for name in _golden_modules()))
    for row in parity.manifest.get("observed_float32", []):
        case_id = OBSERVED_NAMES.get(row[0], row[0])
        assert case_id in parity.specs, f"observed_float32 names an unknown case: {row}"
        assert case_id in checked, f"no test checks the observed_float32 rows of {case_id}"


def _golden_modules() -> list[str]:
    return sorted({name for handlers in handled_by_modules().values() for name, _ in handlers})
