"""Segmentation, adversarial and augmentation losses: hand-computed values, gradients, properties, two workers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from two_workers import run_two_workers

from sage_ray.losses import diff_augment as augment
from sage_ray.losses import functional
from sage_ray.losses.diff_augment import diff_augment
from sage_ray.losses.lsgan import lsgan_loss
from sage_ray.losses.segmentation import segmentation_loss
from sage_ray.training.draws import KeyedDraws

NONE = {"w_ce": 0.0, "w_focal": 0.0, "w_dice": 0.0, "w_tversky": 0.0, "w_focal_tversky": 0.0}
TERMS = ["w_ce", "w_focal", "w_dice", "w_tversky", "w_focal_tversky"]
FORMS = [{}, {"reduction": "image"}, {"focal_form": "batch"}]


def only(term: str, **keywords: Any) -> dict[str, Any]:
    return NONE | {term: 1.0} | keywords


def scene(batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(logits (N,2,6,5), target (N,6,5)) with some foreground in every image."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 2, 6, 5, generator=generator, dtype=dtype) * 2
    target = (torch.rand(batch, 6, 5, generator=generator) < 0.4).long()
    target[:, 0, 0] = 1
    return logits, target


class TestHandComputed:
    """Logits 0 (p = 1/2) on a 2x2 image with two foreground pixels: TP = FP = FN = 1, CE = ln 2."""

    LOGITS = torch.zeros(1, 2, 2, 2)
    TARGET = torch.tensor([[[1, 1], [0, 0]]])
    LN2 = math.log(2)

    @pytest.mark.parametrize(
        ("keywords", "expected"),
        [
            (only("w_ce"), LN2),
            (only("w_focal", focal_alpha=0.25, focal_gamma=2.0), 0.5 * 0.25 * LN2),
            (only("w_focal", focal_alpha=0.25, focal_gamma=2.0, focal_form="batch"), 0.25 * 0.25 * LN2),
            (only("w_dice"), 0.5),
            (only("w_tversky", alpha=0.4, beta=0.6), 0.5),
            (only("w_tversky", alpha=1.0, beta=2.0), 0.75),
            (only("w_focal_tversky", alpha=1.0, beta=2.0, gamma=2.0), 0.5625),
            ({"w_ce": 2.0, "w_focal_tversky": 3.0, "gamma": 1.0}, 2 * LN2 + 3 * 0.5),
        ],
    )
    def test_value(self, keywords: dict[str, Any], expected: float) -> None:
        assert float(segmentation_loss(self.LOGITS, self.TARGET, **keywords)) == pytest.approx(expected, rel=1e-5)

    def test_default_is_the_published_run(self) -> None:
        default = segmentation_loss(self.LOGITS, self.TARGET)
        assert float(default) == pytest.approx(self.LN2 + 0.5**1.5, rel=1e-5)

    def test_alpha_weighs_false_positives_and_beta_false_negatives(self) -> None:
        everything = torch.stack([torch.full((1, 2, 2), -20.0), torch.full((1, 2, 2), 20.0)], 1)
        sums = functional.overlap_sums(everything, self.TARGET)
        assert [round(float(value), 4) for value in sums] == [2, 2, 0]
        assert float(functional.tversky_loss(sums, 0.5, 9.0)) == pytest.approx(1 - 2 / 3, rel=1e-5)
        sums = functional.overlap_sums(-everything, self.TARGET)
        assert [round(float(value), 4) for value in sums] == [0, 0, 2]

    def test_pixel_focal_balances_the_classes(self) -> None:
        """alpha = 1 looks at the foreground alone, alpha = 0 at the background alone."""
        logits = torch.tensor([[1.0, -1.0], [2.0, 0.0]])[None, None] * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
        ce = functional.cross_entropy_map(logits, self.TARGET)
        foreground = functional.focal_pixel_loss(ce, self.TARGET, 1.0, 0.0)
        background = functional.focal_pixel_loss(ce, self.TARGET, 0.0, 0.0)
        assert float(foreground) == pytest.approx(float(ce[0, 0].sum()) / 4, rel=1e-6)
        assert float(background) == pytest.approx(float(ce[0, 1].sum()) / 4, rel=1e-6)

    def test_image_reduction_is_the_mean_over_images(self) -> None:
        logits, target = scene(3)
        for term in ("w_dice", "w_tversky", "w_focal_tversky"):
            whole = segmentation_loss(logits, target, reduction="image", **only(term))
            parts = [segmentation_loss(logits[i : i + 1], target[i : i + 1], **only(term)) for i in range(3)]
            torch.testing.assert_close(whole, torch.stack(parts).mean())
            assert not torch.isclose(whole, segmentation_loss(logits, target, **only(term)), rtol=1e-6)

    def test_lsgan(self) -> None:
        scores = torch.tensor([[[[1.0, 0.0], [3.0, -1.0]]]])
        assert float(lsgan_loss(scores, 1.0)) == pytest.approx((0 + 1 + 4 + 4) / 4)
        assert float(lsgan_loss(scores, 0.0)) == pytest.approx((1 + 0 + 9 + 1) / 4)


class TestGradients:
    @pytest.mark.parametrize("form", FORMS, ids=["pixel-batch", "image", "focal-batch"])
    @pytest.mark.parametrize("term", TERMS)
    def test_gradcheck(self, term: str, form: dict[str, str]) -> None:
        logits, target = scene(dtype=torch.float64)
        keywords = only(term, gamma=0.75, focal_gamma=1.5, focal_alpha=0.3, **form)
        assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, target, **keywords), logits.requires_grad_())

    @pytest.mark.parametrize("size", [1.0, 30.0, 200.0])
    @pytest.mark.parametrize("right", [True, False])
    @pytest.mark.parametrize("form", FORMS, ids=["pixel-batch", "image", "focal-batch"])
    def test_finite_when_sure(self, size: float, right: bool, form: dict[str, str]) -> None:
        """Sure logits, right or wrong, in float32 and with powers below 1: loss and gradient stay finite."""
        _, target = scene()
        sign = (target * 2.0 - 1.0) * (size if right else -size)
        logits = torch.stack([-sign, sign], 1).requires_grad_()
        weights = dict.fromkeys(TERMS, 1.0) | {"gamma": 0.5, "focal_gamma": 0.5}
        loss = segmentation_loss(logits, target, **weights, **form)
        loss.backward()
        assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
        if right and size >= 30:
            assert float(loss.detach()) < 1e-3

    def test_half_precision_is_widened(self) -> None:
        logits, target = scene()
        loss = segmentation_loss(logits.bfloat16(), target)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, segmentation_loss(logits.bfloat16().float(), target))

    def test_lsgan_gradcheck(self) -> None:
        scores = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: lsgan_loss(x, 1.0), scores)


class TestEmptyMasks:
    """A batch, or under reduction=image an image, without foreground."""

    @pytest.mark.parametrize("reduction", ["batch", "image"])
    def test_tversky_is_one_without_gradient(self, reduction: str) -> None:
        logits, _ = scene()
        logits.requires_grad_()
        for term in ("w_tversky", "w_focal_tversky"):
            loss = segmentation_loss(logits, torch.zeros(2, 6, 5).long(), reduction=reduction, **only(term))
            (grad,) = torch.autograd.grad(loss, logits)
            assert float(loss.detach()) == pytest.approx(1.0, abs=1e-6)
            assert not grad.any()

    def test_dice_is_near_one_unless_nothing_is_predicted(self) -> None:
        empty = torch.zeros(2, 6, 5).long()
        assert float(segmentation_loss(scene()[0], empty, **only("w_dice"))) == pytest.approx(1.0, abs=1e-5)
        sure = torch.stack([torch.full((2, 6, 5), 60.0), torch.full((2, 6, 5), -60.0)], 1)
        assert float(segmentation_loss(sure, empty, **only("w_dice"))) == pytest.approx(0.0, abs=1e-6)

    def test_cross_entropy_still_teaches(self) -> None:
        logits, _ = scene()
        logits.requires_grad_()
        segmentation_loss(logits, torch.zeros(2, 6, 5).long()).backward()
        assert logits.grad is not None and logits.grad.abs().min() > 0

    def test_an_empty_image_beside_a_full_one(self) -> None:
        """image: the empty one counts 1, the other is judged by itself; batch: both share one ratio."""
        logits, target = scene()
        target[1] = 0
        first = segmentation_loss(logits[:1], target[:1], **only("w_tversky"))
        by_image = segmentation_loss(logits, target, reduction="image", **only("w_tversky"))
        torch.testing.assert_close(by_image, (first + 1) / 2)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    return scene(draw(st.integers(1, 3)), draw(st.integers(0, 10_000)), torch.float64)


class TestProperties:
    @settings(max_examples=25, deadline=None)
    @given(scenes(), st.sampled_from(["batch", "image"]))
    def test_balanced_tversky_is_dice(self, pair: tuple[Tensor, Tensor], reduction: str) -> None:
        dice = segmentation_loss(*pair, reduction=reduction, **only("w_dice"))
        tversky = segmentation_loss(*pair, reduction=reduction, **only("w_tversky", alpha=0.5, beta=0.5))
        torch.testing.assert_close(tversky, dice, rtol=0, atol=2e-6)

    @settings(max_examples=25, deadline=None)
    @given(scenes(), st.floats(0.1, 3.0), st.sampled_from(["batch", "image"]))
    def test_power_one_is_tversky_and_terms_add_up(
        self, pair: tuple[Tensor, Tensor], weight: float, reduction: str
    ) -> None:
        plain = segmentation_loss(*pair, reduction=reduction, **only("w_tversky"))
        power_one = segmentation_loss(*pair, reduction=reduction, **only("w_focal_tversky", gamma=1))
        torch.testing.assert_close(power_one, plain)
        single = [segmentation_loss(*pair, reduction=reduction, **only(term)) for term in TERMS]
        together = segmentation_loss(*pair, reduction=reduction, **dict.fromkeys(TERMS, weight))
        torch.testing.assert_close(together, weight * torch.stack(single).sum())

    @settings(max_examples=25, deadline=None)
    @given(scenes(), st.floats(0, 4), st.sampled_from(["pixel", "batch"]))
    def test_focal_is_at_most_its_share_of_cross_entropy(
        self, pair: tuple[Tensor, Tensor], power: float, form: str
    ) -> None:
        ce = segmentation_loss(*pair, **only("w_ce"))
        focal = segmentation_loss(*pair, focal_form=form, **only("w_focal", focal_alpha=0.5, focal_gamma=power))
        assert 0 <= float(focal) <= 0.5 * float(ce) + 1e-12
        unfocused = segmentation_loss(*pair, focal_form=form, **only("w_focal", focal_alpha=0.5, focal_gamma=0))
        torch.testing.assert_close(unfocused, 0.5 * ce)

    @settings(max_examples=25, deadline=None)
    @given(scenes(), st.sampled_from(TERMS), st.randoms())
    def test_order_of_images_and_pixels_does_not_matter(
        self, pair: tuple[Tensor, Tensor], term: str, random: Any
    ) -> None:
        logits, target = pair
        order = random.sample(range(len(logits)), len(logits))
        moved = segmentation_loss(logits[order].flip(3), target[order].flip(2), **only(term))
        torch.testing.assert_close(moved, segmentation_loss(logits, target, **only(term)))

    @settings(max_examples=25, deadline=None)
    @given(scenes(), st.sampled_from(["w_dice", "w_tversky", "w_focal_tversky"]), st.sampled_from(["batch", "image"]))
    def test_overlap_terms_are_shares(self, pair: tuple[Tensor, Tensor], term: str, reduction: str) -> None:
        assert 0 < float(segmentation_loss(*pair, reduction=reduction, **only(term))) <= 1


class TestTwoWorkers:
    @pytest.mark.parametrize("form", FORMS, ids=["pixel-batch", "image", "focal-batch"])
    @pytest.mark.parametrize("term", TERMS)
    def test_averaged_gradients_are_those_of_the_whole_batch(self, term: str, form: dict[str, str]) -> None:
        logits, target = scene(4)
        keywords = only(term, **form)
        scale = torch.tensor(1.3, requires_grad=True)  # a shared weight
        whole = segmentation_loss(logits * scale, target, **keywords)
        (expected,) = torch.autograd.grad(whole, scale)

        parts = [slice(0, 2), slice(2, 4)]
        losses = run_two_workers(
            lambda rank, reduce: (
                segmentation_loss(logits[parts[rank]] * scale, target[parts[rank]], reduce=reduce, **keywords)
                if needs_reduction(term, form)
                else segmentation_loss(logits[parts[rank]] * scale, target[parts[rank]], **keywords)
            )
        )
        average = torch.stack(losses).mean()
        (grad,) = torch.autograd.grad(average, scale)
        torch.testing.assert_close(average, whole, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)

    def test_means_over_images_need_no_communication(self) -> None:
        calls: list[Tensor] = []

        def reduce(tensor: Tensor) -> Tensor:
            calls.append(tensor)
            return tensor

        weights = dict.fromkeys(TERMS, 1.0)
        segmentation_loss(*scene(), reduction="image", focal_form="pixel", reduce=reduce, **weights)
        assert not calls
        segmentation_loss(*scene(), reduction="batch", focal_form="batch", reduce=reduce, **weights)
        assert len(calls) == 2


def needs_reduction(term: str, form: dict[str, str]) -> bool:
    """Whether the term is no mean over images, so that workers must sum for it."""
    if term == "w_ce":
        return False
    return form.get("focal_form") == "batch" if term == "w_focal" else form.get("reduction") != "image"


class TestBadInput:
    @pytest.mark.parametrize("logits", [torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 5), torch.zeros(2, 4, 4)])
    def test_shapes_are_named(self, logits: Tensor) -> None:
        with pytest.raises(ValueError, match="logits and target have shapes"):
            segmentation_loss(logits, torch.zeros(1, 4, 4).long())

    @pytest.mark.parametrize("keywords", [{"focal_form": "sum"}, {"reduction": "none"}])
    def test_unknown_forms_are_named(self, keywords: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(keywords.values()))):
            segmentation_loss(*scene(), **keywords)


class TestDiffAugment:
    IMAGE = torch.rand(4, 1, 24, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def test_translation_by_hand(self) -> None:
        image = torch.arange(6.0).reshape(1, 1, 2, 3)
        moved = augment.translate(image, torch.tensor([1]), torch.tensor([-1]))
        assert moved[0, 0].tolist() == [[0, 3, 4], [0, 0, 0]]

    def test_cutout_by_hand(self) -> None:
        cut = augment.cutout(torch.ones(2, 2, 4, 6), torch.tensor([0, 2]), torch.tensor([5, 3]))
        assert cut[0, 1].tolist() == [[1, 1, 1, 1, 0, 0]] + [[1] * 6] * 3
        assert cut[1, 0].tolist() == [[1] * 6, [1, 1, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1], [1] * 6]

    def test_gradients(self) -> None:
        image = self.IMAGE[:2, :, :8, :9].double().requires_grad_()
        draw = augment.draw_parameters(torch.rand(2, 7, generator=torch.Generator().manual_seed(2)), 8, 9)
        assert torch.autograd.gradcheck(lambda x: augment.apply_draw(x, draw), image)
        shifts = torch.tensor([1, -2]), torch.tensor([0, 1])
        assert torch.autograd.gradcheck(lambda x: augment.translate(x, *shifts), image)
        assert torch.autograd.gradgradcheck(lambda x: augment.translate(x, *shifts), image)

    def test_same_draws_and_name_give_the_same_and_others_not(self) -> None:
        def augmented(ids: list[int], name: str) -> Tensor:
            return diff_augment(self.IMAGE[ids], KeyedDraws(0, "adversarial", 3, 1, ids), name)

        whole = augmented([0, 1, 2, 3], "a")
        assert torch.equal(torch.cat([augmented([0, 1], "a"), augmented([2, 3], "a")]), whole)
        assert torch.equal(augmented([0, 1, 2, 3], "a"), whole)
        assert not torch.equal(augmented([0, 1, 2, 3], "b"), whole)
        assert all(not torch.equal(row, image) for row, image in zip(whole, self.IMAGE, strict=True))

    def test_draws_are_spread_over_their_ranges(self) -> None:
        uniform = torch.rand(4000, 7, generator=torch.Generator().manual_seed(0))
        draw = augment.draw_parameters(uniform, 24, 40)
        ranges = {"shift_rows": (-3, 3), "shift_cols": (-5, 5), "cut_row": (0, 24), "cut_col": (0, 40)}
        for name, (low, high) in ranges.items():
            counts = torch.bincount(getattr(draw, name) - low, minlength=high - low + 1)
            assert len(counts) == high - low + 1
            assert float(counts.min()) > 0.6 * 4000 / len(counts), f"{name} is not uniform"
