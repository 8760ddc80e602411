"""Ray's labels of models of GPUs and the names that torch has for them."""

from __future__ import annotations

import pytest

from sage_ray.runtime.gpu_models import Preference, is_model, preference


@pytest.mark.parametrize(
    ("label", "name", "same"),
    [
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("A100", "NVIDIA A100-SXM4-40GB", True),
        ("V100", "Tesla V100-SXM2-16GB", True),
        ("T4", "Tesla T4", True),
        ("RTX-PRO-6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition", True),
        ("GeForce-RTX-5090", "NVIDIA GeForce RTX 5090", True),
        ("H20", "NVIDIA H200", False),
        ("H100", "NVIDIA A100-SXM4-40GB", False),
        ("L4", "NVIDIA L40S", False),
    ],
)
def test_a_label_is_of_the_model_that_torch_names(label: str, name: str, same: bool) -> None:
    assert is_model(label, name) is same


@pytest.mark.parametrize(("computed_on", "gpus"), [([], 1.0), (["CPU, torch 2.13.0"], 0.0)])
def test_who_has_not_begun_or_needs_no_gpu_asks_for_nothing(computed_on: list[str], gpus: float) -> None:
    assert preference("r", computed_on, {"CPU": 1.0, "GPU": gpus}, 1, ()) == Preference({})
