"""Factor designs: known fractions, and aliases checked against the columns of the design itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_ray.study.factors import combinations, fraction


@pytest.mark.parametrize(
    ("count", "generators", "relation", "resolution", "aliases"),
    [
        (3, {"C": "A*B"}, ["A*B*C"], 3, {"A": ["B*C"], "C": ["A*B"]}),
        (4, {"D": "A*B*C"}, ["A*B*C*D"], 4, {"A": ["B*C*D"], "D": ["A*B*C"]}),
        (5, {"E": "A*B*C*D"}, ["A*B*C*D*E"], 5, {"C": ["A*B*D*E"]}),
        (5, {"D": "A*B", "E": "A*C"}, ["A*B*D", "A*C*E", "B*C*D*E"], 3,
         {"A": ["B*D", "C*E", "A*B*C*D*E"], "D": ["A*B", "B*C*E", "A*C*D*E"]}),
        (4, {"D": "-A*B*C"}, ["-A*B*C*D"], 4, {"A": ["-B*C*D"]}),
        (6, {"E": "A*B*C", "F": "B*C*D"}, ["A*B*C*E", "A*D*E*F", "B*C*D*F"], 4, {"A": ["B*C*E", "D*E*F", "A*B*C*D*F"]}),
    ],
)  # fmt: skip
def test_known_fractions_have_their_relation_resolution_and_aliases(
    count: int, generators: dict[str, str], relation: list[str], resolution: int, aliases: dict[str, list[str]]
) -> None:
    factors = list("ABCDEF"[:count])
    structure = fraction(factors, generators)
    assert [word.text(factors) for word in structure.relation] == relation and structure.resolution == resolution
    assert {name: structure.aliases(name) for name in aliases} == aliases
    head = structure.lines()[0]
    assert head.startswith(f"2^({count}-{len(generators)}) fraction, {2 ** (count - len(generators))} arms, resolution")


def columns(rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    return {name: np.array([1 if row[name] == "on" else -1 for row in rows]) for name in rows[0]}


BASIC = list("ABCD")
WORDS = ["*".join(chosen) for size in (2, 3, 4) for chosen in itertools.combinations(BASIC, size)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.booleans()), min_size=1, max_size=4, unique_by=lambda pair: pair[0])
)
def test_aliases_are_the_effects_whose_columns_are_equal(chosen: list[tuple[str, bool]]) -> None:
    generators = {f"X{k}": ("-" if minus else "") + word for k, (word, minus) in enumerate(chosen)}
    factors = BASIC + list(generators)
    try:
        rows, structure = combinations("fractional", {name: ["on", "off"] for name in factors}, generators)
    except ValueError as error:
        assert "resolution" in str(error)
        return
    assert structure is not None and structure.resolution >= 3
    assert len(rows) == 16 == len({tuple(row.values()) for row in rows}) and list(rows[0]) == factors
    column = columns(rows)
    matrix = np.stack([column[name] for name in factors])
    assert (matrix @ matrix.T == 16 * np.eye(len(factors))).all(), "balanced, and no main effect confused with another"
    equal = {}
    for size in range(2, len(factors) + 1):
        for effect in itertools.combinations(factors, size):
            product = np.prod([column[name] for name in effect], axis=0)
            equal |= {("" if sign > 0 else "-") + "*".join(effect): sign * product for sign in (1, -1)}
    for name in factors:
        assert set(structure.aliases(name)) == {text for text, value in equal.items() if (value == column[name]).all()}


def test_too_many_combinations_are_refused_before_they_are_made() -> None:
    levels = {f"f{k}": ["on", "off"] for k in range(30)}
    with pytest.raises(ValueError, match="at most 512"):
        combinations("factorial", levels, {})
