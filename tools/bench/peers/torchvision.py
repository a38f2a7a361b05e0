"""torchvision's way: ImageFolder, PIL, RandomResizedCrop and flip in a DataLoader's worker processes.

Pixels are delivered as uint8 (``PILToTensor``), as by all contestants: float conversion and normalisation would only slow it down.
On one core one worker process decodes and the main process hands over, which costs it about 4 % against
``num_workers=0``; a run on more cores has no such choice, so one core runs its way too.
"""

from __future__ import annotations

from typing import Any

import PIL
import torch

from bench.peer import FLIP, RATIO, SCALE, SIZE_PX, Peer, Tally, Task

_kept: list[object] = []  # torch forgets an operator when the library object that defined it is freed


def import_torchvision() -> Any:
    """torchvision, also if its CUDA wheel runs on a CPU build of torch and lacks two operators, which are not used here."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        _kept.append(library)
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


torchvision = import_torchvision()
from torchvision import datasets, transforms  # noqa: E402


class Torchvision(Peer):
    def __init__(self, task: Task) -> None:
        transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIZE_PX, SCALE, RATIO),
                transforms.RandomHorizontalFlip(FLIP),
                transforms.PILToTensor(),
            ]
        )
        self.loader = torch.utils.data.DataLoader(
            datasets.ImageFolder(task.input, transform),
            batch_size=task.batch_size,
            shuffle=True,
            num_workers=task.threads,
            persistent_workers=True,  # otherwise every epoch would start them again
        )

    def run(self, epochs: int) -> Tally:
        tally = Tally()
        for _ in range(epochs):
            tally.count(self.loader)
        return tally


def open_peer(task: Task) -> Peer:
    return Torchvision(task)


def versions() -> dict[str, str]:
    return {"torchvision": torchvision.__version__, "torch": torch.__version__, "pillow": PIL.__version__}
