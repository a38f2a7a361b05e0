"""The table of a model's predictions: a line for each image."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..loader.buffer_pool import Batch
from .inputs import Image, Images
from .trained import TrainedModel


def columns(model: TrainedModel, images: Images, top: int) -> list[str]:
    """The table's first line."""
    return ["path", *(["label"] if images.has_labels else []), *_of_outputs(model, top)]


def _of_outputs(model: TrainedModel, top: int) -> list[str]:
    if not model.predicts_classes:
        count = model.num_outputs
        return ["output"] if count == 1 else [f"output_{k}" for k in range(count)]
    if top == 1:
        return ["class", "probability"]
    return [name for k in range(1, top + 1) for name in (f"class_{k}", f"probability_{k}")]


def rows(model: TrainedModel, images: Images, top: int) -> Iterator[tuple[Image, list[str]]]:
    """Each image and its line: the ``top`` most likely classes with their probabilities, or the outputs of a model that predicts numbers."""
    waiting: list[list[Image]] = []  # of batches that are on their way through the device
    empty = [""] * len(_of_outputs(model, top))

    def batches() -> Iterator[Batch]:
        for entries, batch in images:
            waiting.append(entries)
            if len(batch.labels):
                yield batch

    def lines(texts: Iterator[list[str]]) -> Iterator[tuple[Image, list[str]]]:
        for image in waiting.pop(0):
            label = [image.label] if images.has_labels else []
            yield image, [image.path, *label, *(next(texts) if image.is_read else empty)]

    def unread() -> Iterator[tuple[Image, list[str]]]:
        while waiting and not any(image.is_read for image in waiting[0]):
            yield from lines(iter([]))

    for outputs in model.outputs(batches()):
        yield from unread()
        yield from lines(iter(_texts(model, outputs, top)))
    yield from unread()


def _texts(model: TrainedModel, outputs: Tensor, top: int) -> list[list[str]]:
    """The columns of outputs (B, C)."""
    if not model.predicts_classes:
        return [[f"{value:.6g}" for value in row] for row in outputs.tolist()]
    probabilities, places = outputs.softmax(1).topk(top)
    names = model.classes or [str(k) for k in range(model.num_outputs)]
    return [
        [text for place, share in zip(row, shares, strict=True) for text in (names[place], f"{share:.6f}")]
        for row, shares in zip(places.tolist(), probabilities.tolist(), strict=True)
    ]
