"""The model card names what was trained, and on what."""

from __future__ import annotations

import pytest
from tiny_cases import tiny_config

from sage_ray.evaluation.score_tables import ScoreLine
from sage_ray.registry.card import CardFacts, model_card

LINE = ScoreLine(0.9, None, None, None, 3, 1, "images: one", "Dice", 3)


@pytest.mark.parametrize(
    ("preset", "sets", "told"),
    [
        ("tiny_sage_gan", (), ["SAGE-GAN for particle micrographs", "- 13 images trained on"]),
        ("tiny_f_ancgan", (), ["F-ANcGAN for particle micrographs"]),
        ("tiny_cyclegan", (), ["CycleGAN for particle micrographs"]),
        ("tiny_unet", (), ["unet for particle micrographs"]),
        ("tiny_diffrender", (), ["attention_unet for", "- 48 rendered pairs trained on (engine shader)"]),
        ("tiny_diffrender", ("render.sizes=fitted",), ["of their masks the sizes of particles alone were taken"]),
    ],
)  # fmt: skip
def test_the_card_names_the_system_and_what_it_was_trained_on(
    preset: str, sets: tuple[str, ...], told: list[str]
) -> None:
    facts = CardFacts(
        model_name="m", final_id="f", run_id="r", study=None, trial=None, rule="a rule", seeds=(0,),
        config=tiny_config(*sets, preset=preset), fingerprint="0" * 16, test_set="1" * 16,
        images={"train": 13, "test": 3}, commit=None, weights_sha=None, has_generator=False, packed=(0,),
        segmenter_bytes=1000,
    )  # fmt: skip
    card = model_card(facts, {"dice": LINE})
    assert [text for text in told if text not in card] == []
