"""A strided convolution of few channels as one of many: each block of pixels becomes the channels of one place.

A 3 x 11 x 11 kernel at stride 4 is a 48 x 3 x 3 kernel at stride 1 over blocks of 4 x 4 pixels: the same sums, in another order.
Matrix units want many channels: on an H100 AlexNet's first convolution takes 0.6 ms less a step of batch 128; an NPU's layout
pads 3 channels to 16.  On a CPU it does not pay (batch 32, 224 px, one core: 292 ms become 335 in float32, 112 become
113 in bfloat16, and the layout costs more to write).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Blocks:
    """How the images of a convolution of this kernel, stride and padding (pixels) are cut into blocks of `stride` x `stride`.

    Channels are in the order (channel, row in the block, column in the block).  The first block begins `padding` pixels before
    the image.
    """

    kernel: int
    stride: int
    padding: int

    def count(self, size: int) -> int:
        """Blocks along a side of `size` pixels."""
        outputs = (size + 2 * self.padding - self.kernel) // self.stride + 1
        return outputs - 1 + -(-self.kernel // self.stride)

    def of_images(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C * stride^2, rows, columns) in the same memory format; pads with zeros."""
        batch, channels, height, width = images.shape
        rows, columns, side = self.count(height), self.count(width), self.stride
        after = [count * side - self.padding - size for count, size in ((columns, width), (rows, height))]
        padded = functional.pad(images, (self.padding, after[0], self.padding, after[1]))
        cut = padded.reshape(batch, channels, rows, side, columns, side).permute(0, 1, 3, 5, 2, 4)
        return cut.reshape(batch, channels * side * side, rows, columns)

    def of_weight(self, weight: Tensor) -> Tensor:
        """A kernel (O, C, kernel, kernel) to the one over blocks, (O, C * stride^2, n, n)."""
        outputs, channels, _, _ = weight.shape
        side, count = self.stride, -(-self.kernel // self.stride)
        more = count * side - self.kernel
        padded = functional.pad(weight, (0, more, 0, more))
        cut = padded.reshape(outputs, channels, count, side, count, side).permute(0, 1, 3, 5, 2, 4)
        return cut.reshape(outputs, channels * side * side, count, count)

    def shape(self, images: Any) -> tuple[int, int, int, int]:
        """The shape of images of this shape, in blocks."""
        batch, channels, height, width = images
        return batch, channels * self.stride**2, self.count(height), self.count(width)

    def parts(self, images: Tensor, blocks: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of `images` (B, C, H, W), whose sides are multiples of `stride`, and of the places in `blocks` that hold their pixels.

        What is in none of them is padding.  `blocks` is empty memory of `shape`, in any memory format.
        """
        side, (channels, height, width) = self.stride, images.shape[1:]
        source = images.unflatten(3, (width // side, side)).unflatten(2, (height // side, side))
        target = blocks.unflatten(1, (channels, side, side)).permute(0, 1, 4, 2, 5, 3)  # b, c, i, dy, j, dx
        for (rows, down, dy), (columns, right, dx) in product(self._runs(), self._runs()):
            place = target[:, :, down:, dy, right:, dx]
            pixels = source[
                :, :, : place.shape[2], rows, : place.shape[4], columns
            ]  # the last may be in no block
            yield pixels, place[:, :, : pixels.shape[2], :, : pixels.shape[4]]

    def _runs(self) -> list[tuple[slice, int, slice]]:
        """The pixels of a block that is aligned to the image lie in two runs: which, how many blocks on, and where in that block."""
        on, into = divmod(self.padding, self.stride)
        runs = [(slice(0, self.stride - into), on, slice(into, self.stride))]
        return runs if not into else [*runs, (slice(self.stride - into, self.stride), on + 1, slice(0, into))]


class BlockedConv2d(nn.Conv2d):
    """nn.Conv2d, with its parameters and keys, that computes over blocks of pixels where `over_blocks` is set.

    Takes images (B, C, H, W), or their blocks (B, C * stride^2, rows, columns).
    """

    over_blocks = False

    @property
    def blocks(self) -> Blocks:
        return Blocks(self.kernel_size[0], self.stride[0], int(self.padding[0]))

    def forward(self, input: Tensor) -> Tensor:
        is_cut = input.shape[1] != self.in_channels
        if not (self.over_blocks or is_cut):
            return super().forward(input)
        cut = input if is_cut else self.blocks.of_images(input)
        return functional.conv2d(cut, self.blocks.of_weight(self.weight), self.bias)


def blocked_convolution(model: nn.Module) -> BlockedConv2d | None:
    """The model's first convolution, if it is able to compute over blocks."""
    return next((each for each in model.modules() if isinstance(each, BlockedConv2d)), None)
