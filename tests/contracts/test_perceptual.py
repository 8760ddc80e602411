"""The perceptual loss, and its weights from a file or a download served on loopback."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from sage_ray.errors import UserError
from sage_ray.losses.perceptual import VGG19_SHA256, VGG19_URL, VGG19Loss, load_vgg19

_CHANNELS = [3, 64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512]
_INDICES = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights named as torchvision names them, with two tensors that the stack up to conv5_1 does not need."""
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Tensor] = OrderedDict()
    for index, channels, out_channels in zip(_INDICES, _CHANNELS, _CHANNELS[1:], strict=False):
        spread = (2 / (9 * channels)) ** 0.5
        made[f"features.{index}.weight"] = torch.randn(out_channels, channels, 3, 3, generator=generator) * spread
        made[f"features.{index}.bias"] = torch.randn(out_channels, generator=generator) * 0.1
    made["features.30.weight"] = torch.zeros(512, 512, 1, 1)
    made["classifier.6.bias"] = torch.zeros(1000)
    return made


@pytest.fixture(scope="module")
def served(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A folder with checkpoints, served on loopback."""
    folder = tmp_path_factory.mktemp("served")
    torch.save(weights, folder / "vgg19.pth")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Served(folder, f"http://127.0.0.1:{server.server_address[1]}", server)
    server.shutdown()
    thread.join(10)
    server.server_close()


class Served:
    def __init__(self, folder: Path, url: str, server: http.server.ThreadingHTTPServer) -> None:
        self.folder, self.url, self.server = folder, url, server

    def sha256(self, name: str) -> str:
        return hashlib.sha256((self.folder / name).read_bytes()).hexdigest()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    requests: list[str] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path == "/cut-off.pth":
            # Promises more than it sends, as a broken connection does.
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"short")
            return
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test's output clean."""


class TestLoss:
    FAKE = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    REAL = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1

    def test_equal_images_have_no_distance(self, weights: dict[str, Tensor]) -> None:
        assert float(VGG19Loss(weights)(self.FAKE, self.FAKE)) == 0.0

    def test_terms_are_weighted_by_layer(self, weights: dict[str, Tensor]) -> None:
        network = VGG19Loss(weights)
        terms = network.layer_terms(self.FAKE, network.features(self.REAL))
        assert len(terms) == 5 and all(float(term) > 0 for term in terms)
        expected = terms[0] / 32 + terms[1] / 16 + terms[2] / 8 + terms[3] / 4 + terms[4]
        torch.testing.assert_close(network(self.FAKE, self.REAL), expected)

    def test_feature_sizes(self, weights: dict[str, Tensor]) -> None:
        shapes = [tuple(feature.shape) for feature in VGG19Loss(weights).features(self.FAKE)]
        assert shapes == [(2, 64, 32, 32), (2, 128, 16, 16), (2, 256, 8, 8), (2, 512, 4, 4), (2, 512, 2, 2)]

    def test_gradient_reaches_the_fake_image_alone(self, weights: dict[str, Tensor]) -> None:
        network = VGG19Loss(weights)
        fake, real = self.FAKE.clone().requires_grad_(), self.REAL.clone().requires_grad_()
        network(fake, real).backward()
        assert fake.grad is not None and fake.grad.abs().sum() > 0 and real.grad is None
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_gradient_is_the_slope_of_the_loss(self, weights: dict[str, Tensor]) -> None:
        network = VGG19Loss(weights).double()
        fake, real = self.FAKE[:1, :, :16, :16].double().requires_grad_(), self.REAL[:1, :, :16, :16].double()
        direction = torch.randn(fake.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        network(fake, real).backward()
        step = 1e-7
        with torch.no_grad():
            slope = (network(fake + step * direction, real) - network(fake - step * direction, real)) / (2 * step)
        assert fake.grad is not None
        torch.testing.assert_close((fake.grad * direction).sum(), slope, rtol=1e-4, atol=1e-7)

    def test_normalisation_is_imagenet_s(self, weights: dict[str, Tensor]) -> None:
        plain, normalised = VGG19Loss(weights), VGG19Loss(weights, normalise=True)
        white = torch.ones(1, 3, 16, 16)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        by_hand = (white - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        expected = plain.features(by_hand)[0]
        torch.testing.assert_close(normalised.features(torch.ones(1, 1, 16, 16))[0], expected)

    def test_bfloat16_autocast(self, weights: dict[str, Tensor]) -> None:
        network = VGG19Loss(weights).to(memory_format=torch.channels_last)
        expected = network(self.FAKE, self.REAL)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(self.FAKE, self.REAL)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, expected, rtol=0.05, atol=0)


class TestFromFile:
    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_both_formats(self, weights: dict[str, Tensor], tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"vgg.{suffix}"
        torch.save(weights, path) if suffix == "pth" else safetensors.torch.save_file(weights, path)
        loaded = load_vgg19(path, tmp_path / "cache")
        assert len(loaded) == 26
        assert all(torch.equal(loaded[name], weights[name]) for name in loaded)
        assert not (tmp_path / "cache").exists()

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no such file.*nowhere\.pth.*perceptual=none"):
            load_vgg19(tmp_path / "nowhere.pth", tmp_path)

    def test_wrong_shape(self, weights: dict[str, Tensor], tmp_path: Path) -> None:
        wrong = dict(weights) | {"features.10.weight": torch.zeros(256, 128, 1, 1)}
        torch.save(wrong, tmp_path / "wrong.pth")
        with pytest.raises(UserError, match=r"wrong\.pth.*features\.10\.weight has shape \(256, 128, 1, 1\).*=none"):
            load_vgg19(tmp_path / "wrong.pth", tmp_path)

    def test_missing_tensor(self, weights: dict[str, Tensor], tmp_path: Path) -> None:
        short = {name: tensor for name, tensor in weights.items() if name != "features.28.bias"}
        safetensors.torch.save_file(short, tmp_path / "short.safetensors")
        with pytest.raises(UserError, match=r"features\.28\.bias is missing"):
            load_vgg19(tmp_path / "short.safetensors", tmp_path)

    @pytest.mark.parametrize("name", ["empty.pth", "empty.safetensors", "text.pth", "text.safetensors"])
    def test_unreadable(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"no weights at all, " * 20)
        with pytest.raises(UserError, match=name):
            load_vgg19(tmp_path / name, tmp_path)

    def test_pickled_code_is_never_run(self, tmp_path: Path) -> None:
        torch.save({"features.0.weight": _Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
        with pytest.raises(UserError, match=r"not a checkpoint of tensors alone.*trap\.pth"):
            load_vgg19(tmp_path / "trap.pth", tmp_path)
        assert not (tmp_path / "sprung").exists()

    def test_a_list_of_tensors(self, tmp_path: Path) -> None:
        torch.save([torch.zeros(1)], tmp_path / "list.pth")
        with pytest.raises(UserError, match="a list, not tensors by name"):
            load_vgg19(tmp_path / "list.pth", tmp_path)


class TestDownload:
    def fetch(
        self, served: Served, cache: Path, name: str = "vgg19.pth", sha256: str | None = None
    ) -> dict[str, Tensor]:
        sha256 = sha256 or served.sha256(name)[:8]
        return load_vgg19(None, cache, url=f"{served.url}/{name}", sha256=sha256, timeout_s=10)

    def test_downloads_once_and_keeps_only_what_it_needs(
        self, served: Served, weights: dict[str, Tensor], tmp_path: Path
    ) -> None:
        before = len(_Quiet.requests)
        first = self.fetch(served, tmp_path / "new" / "cache")
        second = self.fetch(served, tmp_path / "new" / "cache")
        assert len(_Quiet.requests) == before + 1
        for loaded in (first, second):
            assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.items())
        kept = list((tmp_path / "new" / "cache").iterdir())
        assert [path.suffix for path in kept] == [".safetensors"]
        assert set(safetensors.torch.load_file(kept[0])) == set(first)
        VGG19Loss(second)

    def test_damaged_cache_is_fetched_again(self, served: Served, tmp_path: Path) -> None:
        self.fetch(served, tmp_path)
        (kept,) = tmp_path.iterdir()
        whole = kept.read_bytes()
        kept.write_bytes(whole[: len(whole) // 2])
        before = len(_Quiet.requests)
        self.fetch(served, tmp_path)
        assert len(_Quiet.requests) == before + 1
        assert kept.read_bytes() == whole

    def test_corrupted_download(self, served: Served, tmp_path: Path) -> None:
        data = bytearray((served.folder / "vgg19.pth").read_bytes())
        data[len(data) // 2] ^= 1
        (served.folder / "flipped.pth").write_bytes(data)
        with pytest.raises(UserError, match=r"corrupted.*flipped\.pth.*sha256.*perceptual=none"):
            self.fetch(served, tmp_path, "flipped.pth", sha256=served.sha256("vgg19.pth")[:8])
        assert not list(tmp_path.iterdir()), "a corrupted download was kept"

    def test_broken_off_download(self, served: Served, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"cut-off\.pth.*adversarial\.perceptual_weights"):
            self.fetch(served, tmp_path, "cut-off.pth", sha256="00")
        assert not list(tmp_path.iterdir())

    def test_right_checksum_but_wrong_contents(self, served: Served, tmp_path: Path) -> None:
        torch.save({"features.0.weight": torch.zeros(64, 3, 5, 5)}, served.folder / "other.pth")
        with pytest.raises(UserError, match=r"other\.pth.*features\.0\.weight has shape"):
            self.fetch(served, tmp_path, "other.pth")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1/vgg19.pth", "{served}/nothing.pth", "no-url"])
    def test_unreachable(self, served: Served, tmp_path: Path, url: str) -> None:
        with pytest.raises(UserError, match=r"cannot be downloaded.*perceptual_weights.*perceptual=none") as caught:
            load_vgg19(None, tmp_path, url=url.format(served=served.url), sha256="00", timeout_s=5)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_cache_that_is_no_folder(self, served: Served, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(UserError, match="cannot be kept"):
            self.fetch(served, tmp_path / "file" / "cache")

    def test_published_address(self) -> None:
        assert VGG19_URL.endswith(f"vgg19-{VGG19_SHA256}.pth")


class _Trap:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)
