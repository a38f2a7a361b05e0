"""uint8 images to what a network takes: cast, normalized, in the memory format that it computes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..common.arguments import check, number
from ..devices.cpu import Cpu
from ..devices.device import Device
from ..errors import UserError

if TYPE_CHECKING:
    from .options import LoaderOptions

Triple = tuple[float, float, float]
MeanAndStd = tuple[Sequence[float], Sequence[float]]


class Normalize(NamedTuple):
    """Mean and standard deviation of each channel, of pixels from 0 to 1, as torchvision's Normalize takes them."""

    mean: Triple
    std: Triple


ImageNet = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What networks that were trained on ImageNet expect."""
NONE = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)
FORMATS = (torch.contiguous_format, torch.channels_last)


def normalize_of(given: object) -> Normalize | None:
    """A pair of three numbers each, or None; UserError for anything else."""
    if given is None:
        return None
    expected = "ImageNet, a pair (mean, std) of three numbers each, of pixels from 0 to 1, or None"
    pair = given if isinstance(given, (tuple, list)) else ()
    good = len(pair) == 2 and all(isinstance(each, Sequence) and len(each) == 3 for each in pair)
    check("normalize", given, expected, good and not any(isinstance(each, str) for each in pair))
    mean = [number("normalize mean", each, "a finite number", lambda x: abs(x) < 1e6) for each in pair[0]]
    std = [number("normalize std", each, "more than 0", lambda x: 0 < x < 1e6) for each in pair[1]]
    return Normalize((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def dtype_of(given: object, normalizes: bool) -> torch.dtype | None:
    """One of DTYPES, or None; UserError for anything else, and for bytes that are to be normalized."""
    words = ", ".join(map(str, DTYPES))
    check("dtype", given, f"{words} or None", given is None or given in DTYPES)
    if normalizes and given is torch.uint8:
        raise UserError(
            "dtype = torch.uint8 cannot hold normalized images: give a float dtype, or normalize=None"
        )
    return given  # type: ignore[return-value]


def memory_format_of(given: object) -> torch.memory_format | None:
    """One of FORMATS, or None; UserError for anything else."""
    words = " or ".join(map(str, FORMATS))
    check("memory_format", given, f"{words}, or None", given is None or given in FORMATS)
    return given  # type: ignore[return-value]


class Normalizer:
    """Makes images of bytes: `(pixel / 255 - mean) / std` in a float dtype, or the bytes themselves.

    Args:
        device: where the images are.
        normalize: None = pixels from 0 to 1.
        dtype: uint8 = the bytes, in the memory format.
        memory_format: None = the device's.
    """

    def __init__(
        self,
        device: Device,
        normalize: MeanAndStd | None,
        dtype: torch.dtype,
        memory_format: torch.memory_format | None = None,
    ) -> None:
        self._device, self.dtype = device, dtype
        self._memory_format = device.memory_format if memory_format is None else memory_format
        constants = torch.float32 if device.casts_while_computing else dtype
        if dtype is not torch.uint8:
            mean, std = (torch.tensor([x * 255 for x in each]).view(1, 3, 1, 1) for each in normalize or NONE)
            self._scale = (1 / std).to(device.torch_device, constants)
            self._bias = (-mean / std).to(device.torch_device, constants)

    def __call__(self, images: Tensor) -> Tensor:
        """New images of bytes. (B, 3, H, W) uint8 on the device -> the same shape in dtype and memory format."""
        if self.dtype is not torch.uint8 and not self._device.casts_while_computing:
            made = torch.addcmul(self._bias, images.to(self.dtype), self._scale)
            return made.contiguous(memory_format=self._memory_format)
        out = torch.empty(
            images.shape, dtype=self.dtype, device=images.device, memory_format=self._memory_format
        )
        if self.dtype is torch.uint8:
            return out.copy_(images)
        # One kernel reads bytes and writes halves: (64, 3, 224, 224) in 19 ms on 2 CPU cores, where cast,
        # subtract and multiply one after the other took 76.
        return torch.addcmul(self._bias, images, self._scale, out=out)


def host_normalizer(options: LoaderOptions) -> Normalizer | None:
    """Of a loader's batches in host memory; None where they stay as they are decoded."""
    memory_format = options.memory_format or torch.contiguous_format
    if options.image_dtype is torch.uint8 and memory_format is torch.contiguous_format:
        return None
    return Normalizer(Cpu(), options.normalize, options.image_dtype, memory_format)
