"""Whether 140 generated images at 128x128 are judged in under 60 s on 2 cores, with the default features.

Run: python benchmarks/generation_scores.py [--width 64]. Untrained networks of full width stand for a SAGE-GAN and its
judge: what is computed does not depend on their weights. The training of the judge, which is a run of its own and done
once a data set, is left out. Each part is timed alone, wall clock and processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from record import save

from sage_ray.data.synth import DrawnSource
from sage_ray.evaluation.generated_pairs import drawn_images, found_masks
from sage_ray.evaluation.generation_scores import pair_table, set_distances
from sage_ray.evaluation.image_features import judge_features
from sage_ray.imaging.model import Model
from sage_ray.metrics.cycle import cycle_scores
from sage_ray.models import GENERATORS, SEGMENTERS
from sage_ray.models.init import initialise

SIDE, MASKS, DRAWS = 128, 35, 4
LIMIT_S = 60


def model_of(segmenter: str, width: int, *, generates: bool) -> Model:
    """An untrained model in eval mode."""
    networks = [SEGMENTERS[segmenter](width=width)]
    networks += [GENERATORS["style_unet"](width=width)] if generates else []
    for place, network in enumerate(networks):
        initialise(network, place)
        network.eval()
    return Model(networks[0], networks[1] if generates else None, {"image_size": [SIDE, SIDE]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--name", default="generation_scores", help="of the files in benchmarks/results")
    given = parser.parse_args()
    source = DrawnSource.parse(f"synthetic://ordered?num={MASKS}&size={SIDE}&seed=0")
    pairs = [source.draw(n) for n in range(MASKS)]
    images = np.array([pair.image for pair in pairs], np.float64)
    real = np.rint(255 * (images - images.min()) / np.ptp(images)).astype(np.uint8)
    masks = np.array([pair.mask for pair in pairs]) > 0
    shas = [str(n) for n in range(MASKS)]
    model = model_of("attention_unet", given.width, generates=True)
    judge = model_of("residual_unet", given.width, generates=False)
    rows: list[dict[str, Any]] = []

    def timed(part: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        rows.append({"part": part, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu})
        return found

    made = timed("generation", lambda: drawn_images(model, masks, shas, draws=DRAWS, seed=0, where="benchmark"))
    found = timed(
        "judge and own segmenter",
        lambda: {
            "judge_generated": found_masks(judge, made), "judge_real": found_masks(judge, real),
            "own_generated": found_masks(model, made), "own_real": found_masks(model, real),
        },
    )  # fmt: skip
    timed("cycle scores", lambda: cycle_scores(masks, **found))
    timed("scores of pairs", lambda: pair_table(real, made, masks))
    features = timed("features: judge's training images", lambda: judge_features(judge, real, "benchmark"))
    timed(
        "features and distances of sets", lambda: set_distances(features, real, made, masks, None, images="benchmark")
    )
    rows.append({"part": "together", **{key: sum(row[key] for row in rows) for key in ("wall_s", "cpu_s")}})
    together = rows[-1]
    note = (
        f"Limit: {LIMIT_S} s. Processor time over 2 cores is {together['cpu_s'] / 2:.1f} s on an idle machine at best."
    )
    title = f"{MASKS * DRAWS} generated images at {SIDE}x{SIDE}, networks of width {given.width}: one evaluation"
    save(given.name, title, rows, [note])


if __name__ == "__main__":
    main()
