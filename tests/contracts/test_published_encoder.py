"""The ResNet-34 encoder: names and shapes as published, grey images, weights from a file or served on loopback."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from sage_ray.config import resolve
from sage_ray.errors import UserError
from sage_ray.models.init import initialise
from sage_ray.models.resnet34_unet import ResNet34UNet
from sage_ray.published_weights import RESNET34_SHA256, RESNET34_URL
from sage_ray.training import build
from sage_ray.training.context import LocalContext
from sage_ray.training.encoder_weights import load_encoder

WIDTH, DEPTH = 4, 5
SMALL = ["segmenter.name=resnet34_unet", f"segmenter.width={WIDTH}", f"segmenter.depth={DEPTH}", "runtime.threads=1"]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Drawn weights under the published names, with the two tensors of the classifier, which nobody wants here."""
    generator = torch.Generator().manual_seed(0)
    shapes = ResNet34UNet(width=WIDTH, depth=DEPTH).published().shapes
    drawn = {name: torch.rand(shape, generator=generator) * 0.5 + 0.25 for name, shape in shapes.items()}
    return drawn | {"fc.weight": torch.zeros(1000, 8 * WIDTH), "fc.bias": torch.zeros(1000)}


@pytest.fixture
def file(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save(weights, tmp_path / "resnet34.pth")
    return tmp_path / "resnet34.pth"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def served(file: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(file.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_names_and_sizes_are_those_of_the_published_network() -> None:
    with torch.device("meta"):
        published = ResNet34UNet(width=64, depth=5).published()
    # ResNet-34 has 21,797,672 parameters, of which its classifier has 512 * 1000 + 1000.
    learned = {k: v for k, v in published.shapes.items() if "running" not in k}
    assert sum(torch.Size(shape).numel() for shape in learned.values()) == 21_797_672 - 513_000
    assert len(published.shapes) == 36 + 4 * 36, "36 convolutions, each with a norm of four tensors"
    assert published.shapes["conv1.weight"] == (64, 3, 7, 7)
    assert published.shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert published.shapes["layer4.2.bn2.running_var"] == (512,)
    assert published.url == RESNET34_URL and RESNET34_SHA256 in RESNET34_URL


def test_the_first_convolution_sees_a_grey_image_as_the_published_one_does(weights: dict[str, Tensor]) -> None:
    network = initialise(ResNet34UNet(width=WIDTH, depth=DEPTH), 0).eval()
    network.take_published(weights)
    grey = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    coloured = (grey.expand(-1, 3, -1, -1) - 0.449) / 0.226
    expected = F.conv2d(coloured, weights["conv1.weight"], stride=2, padding=3)
    found = network.encoder.conv1(((grey * 2 - 1 + 1) / 2 - 0.449) / 0.226)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    norm = network.encoder.layer3[4].bn1
    assert torch.equal(norm.running_var, weights["layer3.4.bn1.running_var"])


def test_a_run_starts_from_the_file_and_draws_the_rest(weights: dict[str, Tensor], file: Path) -> None:
    config = resolve(preset="tiny_unet", sets=[*SMALL, f"segmenter.encoder_weights={file}"]).config
    ctx = LocalContext(config.runtime)
    encoder = load_encoder(config, file.parent / "cache")
    assert encoder is not None and "fc.bias" not in encoder
    started = build.build_segmenter(config, ctx, encoder).state_dict()
    drawn = build.build_segmenter(config, ctx).state_dict()
    for name, value in started.items():
        if name.startswith("encoder.") and not name.endswith(("num_batches_tracked", "encoder.conv1.weight")):
            assert torch.equal(value, weights[name.removeprefix("encoder.")])
        elif name.startswith(("decoder.", "head.")):
            assert torch.equal(value, drawn[name])
    assert "encoder_weights" not in build.network_kwargs(config)["segmenter"], "a saved model has weights of its own"
    shallow = config.with_values({"segmenter.depth": 2})
    assert len(load_encoder(shallow, file.parent) or {}) < len(encoder)
    assert load_encoder(config.with_values({"segmenter.encoder_weights": "none"}), file.parent) is None


def test_weights_are_fetched_once_and_checked(weights: dict[str, Tensor], file: Path, served: str) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    published = ResNet34UNet(width=WIDTH, depth=DEPTH).published()
    there = dataclasses.replace(published, url=f"{served}/resnet34.pth", sha256=digest[:8])
    fetched = there.load(None, file.parent / "cache")
    file.unlink()
    again = there.load(None, file.parent / "cache")
    assert set(again) == set(published.shapes) and all(torch.equal(fetched[k], again[k]) for k in again)
    other = dataclasses.replace(there, sha256="0" * 8)
    with pytest.raises(UserError, match="cannot be downloaded.*segmenter.encoder_weights=PATH"):
        other.load(None, file.parent / "cache")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["segmenter.encoder_weights=gone.pth"], "no such file of ResNet-34 weights: gone.pth"),
        (["segmenter.encoder_weights={file}", "segmenter.width=8"], r"conv1.weight has shape \(4, 3, 7, 7\)"),
    ],
)
def test_files_that_do_not_do_are_refused_in_one_line(file: Path, sets: list[str], message: str) -> None:
    config = resolve(preset="tiny_unet", sets=[*SMALL, *(text.format(file=file) for text in sets)]).config
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(config, file.parent)
    assert "\n" not in str(caught.value) and "segmenter.encoder_weights=none" in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["segmenter.encoder_weights=imagenet"], "another width than 4.*segmenter.width to 64"),
        (["segmenter.encoder_weights=x.pth", "segmenter.norm=group"], "norm group has none.*batch or frozen"),
        (["segmenter.encoder_weights=x.pth", "segmenter.name=unet"], "unet has no published encoder.*resnet34_unet"),
        (["segmenter.depth=6"], "too deep: segmenter.depth=6.*at most 5"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(sets: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build.check_names(resolve(preset="tiny_unet", sets=[*SMALL, *sets]).config)


def test_a_checkpoint_takes_the_place_of_published_weights(tmp_path: Path) -> None:
    config = resolve(preset="tiny_unet", sets=[*SMALL, "segmenter.encoder_weights=gone.pth"]).config
    segmenter = build.build_segmenter(config, LocalContext(config.runtime))
    safetensors.torch.save_file(
        {k: v.contiguous() for k, v in segmenter.state_dict().items()}, tmp_path / "whole.safetensors"
    )
    sets = {"pretrain.checkpoint": str(tmp_path / "whole.safetensors"), "pretrain.epochs": 0, "adversarial.epochs": 1}
    assert load_encoder(config.with_values(sets), tmp_path) is None
