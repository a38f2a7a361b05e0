"""Networks of other packages: torchvision's and timm's classifiers, by their names there."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from torch import nn

from ..errors import UserError
from . import AUXILIARY, MODELS, does_not_load


def network(num_classes: int, package: str, name: str) -> nn.Module:
    """One of torchvision's or timm's classifiers, with fresh weights, for so many classes.

    GoogLeNet and Inception are built without their auxiliary outputs, which need a loss of their own, and take images that are
    normalized as all others are.
    Raises UserError as ``find``.
    """
    models = find(package, name)
    made: nn.Module
    if package == "timm":
        made = models.create_model(name, pretrained=False, num_classes=num_classes)
    else:
        options: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name in AUXILIARY else {}
        made = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return made


def find(package: str, name: str) -> Any:
    """timm, or torchvision.models, which has the network; raises UserError where it has not, and where it does not load."""
    module, title = ("timm", f"timm/{name}") if package == "timm" else ("torchvision.models", name)
    try:
        models = importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another build than torch
        raise does_not_load(title, package, error) from error
    if not (models.is_model(name) if package == "timm" else name in models.list_models(module=models)):
        raise _unknown(title)
    return models


def own_size(network: nn.Module) -> int | None:
    """The side of the images that the network was made for, in pixels, where it says so."""
    size: Any = getattr(network, "image_size", None)  # torchvision's ViT
    config: Any = getattr(network, "pretrained_cfg", None)  # timm's
    if size is None and config is not None:
        size = (config.get("input_size") or [None])[-1]
    return size if isinstance(size, int) else None


def _unknown(name: str) -> UserError:
    """The error for a name that no package has, with near ones."""
    package, _, own = name.rpartition("/")
    known = {each: each for each in MODELS}
    for module, prefix in (("torchvision.models", ""), ("timm", "timm/")):
        try:
            found = importlib.import_module(module)
        except (ImportError, RuntimeError):
            continue
        names = found.list_models() if prefix else found.list_models(module=found)
        known = {each: prefix + each for each in names} | known  # torchvision's first, where both have one
    near = [known[each] for each in difflib.get_close_matches(own, known, 3, 0.6)]
    has = f"did you mean {' or '.join(near)}?" if near else "see torchvision's and timm's lists of models"
    where = "timm" if package == "timm" else "torchvision"
    return UserError(f"model.name = {name!r}: {where} has no such classifier; {has}")
