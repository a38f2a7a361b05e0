"""A network of another package, tried before the run starts: which images it takes, what it returns, and at which precision it runs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..common.sizes import Size, sides, size_text
from ..errors import UserError, escaped
from ..models.zoo import own_size
from .precision import Precision


def try_network(network: nn.Module, title: str, num_outputs: int, sizes: Iterable[Size]) -> None:
    """Let images of each size through, in float32 on the CPU, and look at the outputs; draws nothing and changes nothing.

    Raises UserError for a size that it does not take, for outputs that are not (B, num_outputs), and for parameters that it does
    not want to be trained, which the optimizer would step all the same.
    """
    if fixed := [name for name, param in network.named_parameters() if not param.requires_grad]:
        raise UserError(
            f"{title} keeps its parameter {fixed[0]} fixed, but here all are trained: set model.name to another network"
        )
    for size in sorted(sizes, key=sides):
        try:
            outputs = _pass(network, torch.zeros(2, 3, *sides(size)))
        except Exception as error:  # each network has its own way to refuse
            own = own_size(network)
            remedy = (
                f"set data.size and eval.size to {own}" if own and own != size else "set another data.size"
            )
            raise UserError(
                escaped(f"{title} does not take images of {size_text(size)} ({_first_line(error)}): {remedy}")
            ) from error
        if not isinstance(outputs, Tensor) or outputs.shape != (2, num_outputs):
            has = tuple(outputs.shape[1:]) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise UserError(
                f"{title} returns {has} for an image, where ({num_outputs},) is expected: it is no classifier; set model.name to "
                "another network"
            )


def try_precision(precision: Precision, size: Size) -> None:
    """Let an image through at the run's precision, on its device.

    Raises UserError where the network does not run at it.
    """
    images = torch.zeros(2, 3, *sides(size), dtype=precision.dtype, device=precision.device.torch_device)
    try:
        _pass(precision.model, images, precision)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise UserError(
            escaped(
                f"{precision.title} does not run at precision.level {precision.level} ({_first_line(error)}): "
                "set precision.level to O1, or O0"
            )
        ) from error


@torch.no_grad()
def _pass(network: nn.Module, images: Tensor, precision: Precision | None = None) -> object:
    was = network.training
    network.eval()
    try:
        return network(images) if precision is None else precision.forward(images)
    finally:
        network.train(was)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".!:")
