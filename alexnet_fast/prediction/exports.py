"""A trained model as files of other programs."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..common.files import replacing
from ..common.sizes import sides
from ..errors import UserError
from ..loader.normalize import ImageNet
from .trained import TrainedModel

OPSET = 18


class OfBytes(nn.Module):
    """A network that normalizes its images itself: uint8 (N, 3, H, W)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor([255 * each for each in ImageNet.mean]).view(1, 3, 1, 1))
        self.register_buffer(
            "scale", 1 / torch.tensor([255 * each for each in ImageNet.std]).view(1, 3, 1, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.network((images.float() - self.mean) * self.scale)
        return outputs


def export_weights(model: TrainedModel, path: Path) -> None:
    """Write the float32 weights under the network's own keys, which are torchvision's: ``load_state_dict(torch.load(path))``."""
    _write(path, lambda partial: torch.save(model.precision.state_dict(), partial))


def export_onnx(model: TrainedModel, path: Path, *, takes_bytes: bool = False) -> None:
    """Write the network as ONNX, its batch size free.

    takes_bytes: its images are uint8, which it normalizes; else they are normalized float32.
    Raises UserError where the packages onnx and onnxscript are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise UserError(
            f"exporting to ONNX needs the package {error.name}, which is not installed: pip install onnx onnxscript"
        ) from error
    network = OfBytes(model.plain()) if takes_bytes else model.plain()
    examples = torch.zeros(2, 3, *sides(model.size), dtype=torch.uint8 if takes_bytes else torch.float32)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter, about itself
        program = torch.onnx.export(
            network.eval(),
            (examples,),
            input_names=["images"],
            output_names=["outputs"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is where no file is given
    exported = program.model_proto
    for key, value in {"classes": json.dumps(model.classes), "size": json.dumps(model.size)}.items():
        exported.metadata_props.add(key=key, value=value)
    _write(path, lambda partial: onnx.save(exported, str(partial)))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """The file appears when it is complete."""
    try:
        with replacing(path) as partial:
            write(partial)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a folder that does not exist
        raise UserError(f"cannot write {path} ({error}): give another FILE") from error
