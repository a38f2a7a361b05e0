"""uint8 images to what a network takes: cast, normalized and laid out, in one pass over the pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

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


class Layout(Protocol):
    """Blocks of pixels as channels (models/space_to_depth.py)."""

    @property
    def stride(self) -> int: ...
    def shape(self, images: Any) -> tuple[int, int, int, int]: ...
    def of_images(self, images: Tensor) -> Tensor: ...
    def parts(self, images: Tensor, blocks: Tensor) -> Iterator[tuple[Tensor, Tensor]]: ...


class Normalizer:
    """Makes images of bytes on a device: `(pixel / 255 - mean) / std` in a float dtype, or the bytes themselves.

    layout: where it is set, the result is that of blocks of pixels, with zeros around them.

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
        self.layout: Layout | None = None
        constants = torch.float32 if device.casts_while_computing else dtype
        if dtype is not torch.uint8:
            mean, std = (torch.tensor([x * 255 for x in each]).view(1, 3, 1, 1) for each in normalize or NONE)
            self._scale = (1 / std).to(device.torch_device, constants)
            self._bias = (-mean / std).to(device.torch_device, constants)

    def __call__(self, images: Tensor) -> Tensor:
        """New images of bytes. (B, 3, H, W) uint8 on the device -> the same shape, or the layout's, in dtype and memory format."""
        layout = self.layout
        if layout is None:
            return self._whole(images)
        if any(side % layout.stride for side in images.shape[2:]):
            return layout.of_images(self._whole(images)).contiguous(memory_format=self._memory_format)
        out = self._empty(layout.shape(images.shape)).zero_()
        scale, bias = (each.view(1, 3, 1, 1, 1, 1) for each in (self._scale, self._bias))
        for pixels, place in layout.parts(images, out):
            if self._device.casts_while_computing:
                torch.addcmul(bias, pixels, scale, out=place)
            else:
                place.copy_(torch.addcmul(bias, pixels.to(self.dtype), scale))
        return out

    def traced(self, images: Tensor) -> Tensor:
        """The same without writing into parts of a tensor: for torch.compile, which makes one kernel of it."""
        normalized = torch.addcmul(self._bias, images.to(self._bias.dtype), self._scale).to(self.dtype)
        if self.layout is not None:
            normalized = self.layout.of_images(normalized)
        return normalized.contiguous(memory_format=self._memory_format)

    def _whole(self, images: Tensor) -> Tensor:
        if self.dtype is torch.uint8:
            return self._empty(images.shape).copy_(images)
        if not self._device.casts_while_computing:
            made = torch.addcmul(self._bias, images.to(self.dtype), self._scale)
            return made.contiguous(memory_format=self._memory_format)
        # One kernel reads bytes and writes halves: (64, 3, 224, 224) in 19 ms on 2 CPU cores, where cast,
        # subtract and multiply one after the other took 76.
        return torch.addcmul(self._bias, images, self._scale, out=self._empty(images.shape))

    def _empty(self, shape: Any) -> Tensor:
        return torch.empty(
            shape, dtype=self.dtype, device=self._device.torch_device, memory_format=self._memory_format
        )


def host_normalizer(options: LoaderOptions) -> Normalizer | None:
    """Of a loader's batches in host memory; None where they stay as they are decoded."""
    memory_format = options.memory_format or torch.contiguous_format
    if options.image_dtype is torch.uint8 and memory_format is torch.contiguous_format:
        return None
    return Normalizer(Cpu(), options.normalize, options.image_dtype, memory_format)
