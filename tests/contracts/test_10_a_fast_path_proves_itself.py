"""Promise 10: graphs, compiled steps, fused kernels and our own decoders give the plain path's results, checked where they run, before they
are trusted; if they do not, the plain path runs and one sentence says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alexnet_fast import Loader
from alexnet_fast.devices.registry import resolve
from alexnet_fast.doctor.card import fast_paths as card
from alexnet_fast.doctor.card.bench import IMAGES, Bench
from alexnet_fast.engine import fast_paths as paths
from alexnet_fast.loader.buffer_pool import Batch
from alexnet_fast.models import MODELS
from alexnet_fast.packing import libjpeg
from alexnet_fast.packing.encode import Encoding, encode_image
from alexnet_fast.recipe_toml import validate
from betons import jpeg, photo_paths, picture, write
from stress.narrow_model import NARROW

CLASSES, BATCH, SIZE = 10, 4, 64


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setitem(MODELS, "alexnet", NARROW)
    small = {
        "data": {"size": SIZE, "global_batch_size": BATCH, "threads": 1},
        "model": {"num_classes": CLASSES},
    }
    return Bench(validate(small), resolve("cpu"), lambda text: None)


# --- our own decoder --------------------------------------------------------------------------------------------


def pixels(path: Path, decoder: Any) -> tuple[np.ndarray, Any]:
    with Loader(path, 8, train=True, size=96, threads=2, decoder=decoder) as loader:
        return np.concatenate([batch.images.numpy().copy() for batch in loader]), loader.decode_paths


def test_our_own_decoder_gives_the_plain_ones_pixels_to_the_bit(photo_beton: Path) -> None:
    ours, paths = pixels(photo_beton, "auto")
    plain, of_plain = pixels(photo_beton, "libjpeg")
    assert paths.own >= 192 and of_plain.own == 0, "each decoded by its own"
    assert np.array_equal(ours, plain)


def test_what_our_own_decoder_does_not_know_takes_the_plain_path_and_is_counted(tmp_path: Path) -> None:
    usual = [jpeg(picture(100, 80, seed)) for seed in range(4)]
    unusual = [jpeg(picture(100, 80, seed), progressive=True) for seed in range(4, 8)]
    path = write(tmp_path / "a.beton", usual + unusual)
    ours, paths = pixels(path, "auto")
    assert np.array_equal(ours, pixels(path, "libjpeg")[0])
    assert paths.unusual >= 4 and paths.own >= 4 and paths.amiss == 0


class WrongPixel(Loader):
    """A decoder of our own that is one level off in one pixel."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if self.options.decoder == "auto":
                batch.images[0, 0, 0, 0] ^= 1
            yield batch


def test_the_doctor_sees_one_wrong_bit_of_our_own_decoder(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_fast.doctor.card.bench.IMAGES", min(IMAGES, 16))
    assert card.own_decoder(bench).agrees
    monkeypatch.setattr("alexnet_fast.build.Loader", WrongPixel)
    found = card.own_decoder(bench)
    assert not found.agrees and found.difference > 0 and 'data.decoder = "libjpeg"' in found.remedy


# --- the packer's ------------------------------------------------------------------------------------------------


def test_the_packers_fast_decoder_is_used_where_it_is_proven_and_the_bytes_are_the_same_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not libjpeg.proven():
        pytest.skip("libturbojpeg is not installed, or not proven here")
    sources = photo_paths(8)

    def packed() -> list[bytes]:
        return [encode_image(source, Encoding(max_resolution=128)).payload for source in sources]

    fast = packed()
    monkeypatch.setattr(libjpeg, "proven", frozenset)
    with Image.open(sources[0]) as image:
        assert libjpeg.pixels(sources[0].read_bytes(), ((2, 2), (1, 1), (1, 1)), image, 1) is None, (
            "the plain path"
        )
    assert packed() == fast


# --- the step ----------------------------------------------------------------------------------------------------


def test_the_plain_step_itself_is_compared_with_float64_and_a_wrong_one_is_seen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert card.plain_step(bench).agrees
    step = torch.optim.SGD.step

    def without_momentum(optimizer: torch.optim.SGD, *arguments: Any) -> Any:
        for state in optimizer.state.values():
            if state["momentum_buffer"].dtype is torch.float32:
                state["momentum_buffer"].zero_()
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", without_momentum)
    found = card.plain_step(bench)
    assert not found.agrees and found.why and "do not train on it" in found.remedy


class WrongReplay:
    """In place of a captured step: the plain one on the images that it was captured with."""

    def __init__(self, state: Any, images: Tensor, targets: Tensor) -> None:
        self.state, self.images = state, images.clone()

    def takes(self, images: Tensor, targets: Tensor) -> bool:
        return True

    def __call__(self, images: Tensor, targets: Tensor) -> None:
        self.state.eager_step(self.images, targets)


def test_a_fast_step_that_is_wrong_is_off_and_one_sentence_says_why(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def switch(state: Any, on: bool, batch: tuple[Tensor, Tensor]) -> None:
        state.graph = WrongReplay(state, *batch) if on else None

    monkeypatch.setitem(paths.SWITCHES, "graph", switch)
    monkeypatch.setitem(paths.WHY_NOT, "graph", lambda state, world: "")
    state = bench.state()
    found = paths.use(state, paths.Choices(graph=True), BATCH, SIZE, CLASSES)
    assert found.on == [] and state.graph is None
    (sentence,) = found.notes
    assert sentence.startswith("engine.graph is off: ") and "is not the plain step's" in sentence


def test_a_fast_step_that_is_right_is_used(bench: Bench) -> None:
    found = paths.use(bench.state(), paths.Choices(space_to_depth=True), BATCH, SIZE, CLASSES)
    assert found.on == ["space_to_depth"] and not found.notes
