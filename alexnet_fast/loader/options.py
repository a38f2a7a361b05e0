"""The options of a Loader, checked in one place: a new one is a field and a keyword here, and the code that uses it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

import numpy as np
import torch

from ..augment.augmentation import Augmentation, augmentations_of
from ..common.arguments import (
    choice,
    crop_ratio,
    crop_scale,
    flag,
    image_size,
    instance,
    number,
    probability,
    seed_of,
    set_checked,
    whole,
)
from ..common.sizes import sides
from ..decode.crop import CropOptions
from ..decode.decoder import DecoderName
from ..errors import UserError
from .bad_samples import OnError
from .fields import field_names_of
from .normalize import MeanAndStd, dtype_of, memory_format_of, normalize_of
from .orders import GivenOrder, order_of, weights_of
from .rank import share_of
from .watchdog import STALL_S

if TYPE_CHECKING:
    from ..augment.mix import Mix

Interpolation = Literal["bilinear", "bicubic"]
Constructor = TypeVar("Constructor", bound=Callable[..., None])


@dataclass(frozen=True, kw_only=True, eq=False)
class LoaderOptions:
    """The options of a Loader: all its arguments but the file and the batch size.

    ``Loader(path, 256, LoaderOptions(train=True, size=160))`` is ``Loader(path, 256, train=True, size=160)``.  Keyword arguments
    next to options replace what these hold: ``Loader(path, 256, options, rank=1, world_size=2)``.

    Args:
        train: random-resized crops, flips and a shuffled order; else the resized centre crop, in the file's order.
        size: side of the images, in pixels; or their (height, width).
        seed: of the order, the crops, the flips and the augmentations.
        threads: decoding threads (default: one for each core that this process may use; where a launcher says that it started
            several ranks on this host and has bound none, for each of its share of them).
        rank, world_size: this process's share of every epoch, both or neither (default: torch.distributed's, looked up
            whenever an iteration starts; without a process group, all of it).
        indices: the samples to use, by their places in the file (default: all of them); one may come several times.  Several files
            are counted as one, in their order.
        shuffle: a new order every epoch (default: as ``train``, unless there is an ``order``).
        order: which of these samples an epoch has, and in which order, by their places in ``indices``, or in the file if there
            are none: an array; a function of the epoch that gives one, each as long, and is called up to an epoch ahead, by
            another thread, and again for the same epoch; or ``Weighted``, ``Balanced``, ``Repeated``; or "block", which is
            ``Block()``: shuffled by whole pages of the file, for sets that do not fit in memory.
        weights: of several files, which share of an epoch's samples comes from each entry of the list of files, as [0.7, 0.3]: a number
            for each entry, at least 0.  An epoch has as many samples as the files together; within an entry each sample comes
            once before one comes again.
        drop_last: skip the rest that does not fill a batch on every rank (default: as ``train``).
        scale, ratio: of the random-resized crop, as torchvision's.
        flip: probability of a mirrored image.
        augmentations: operations of ``alexnet_fast.augment``, done to each decoded image in this order by the decoding threads,
            as ``[RandAugment(), RandomErasing(p=0.25)]``; whatever ``train`` is.
        mix: ``Mix(mixup=0.2, cutmix=1.0)`` mixes the images of each batch, and makes its labels soft: float32 (B, classes).
        center_ratio: ``size`` over the shorter side before the centre crop: 224 / 256 is Resize(256) + CenterCrop(224).  Where size is
            (height, width), the image is resized, in its shape, until it just covers both divided by this ratio.
        interpolation: "bilinear" or "bicubic": of the crops, in training and evaluation, antialiased as Pillow's of this name.
        views: images of each sample, each with a crop, flip and augmentations of its own, of one decoding: for contrastive
            learning.  With 2 or more ``images`` is a tuple of so many tensors, one a view; view 0 is what 1 would give.
        batches_ahead: batches that are being filled or wait, not counting those that are held.
        read_ahead_bytes: how far beyond those batches the file is read into the page cache; 0 = only when touched.  An order
            "block" reads a window ahead, whatever the number.
        pin_memory: page-locked memory, so that an accelerator can copy batches asynchronously.
        normalize: ``ImageNet`` or another (mean, std) of three channels each, of pixels from 0 to 1, as torchvision's
            Normalize; None = not normalized.
        dtype: of the images: uint8, float16, bfloat16 or float32; float images are of pixels from 0 to 1 (default: uint8, or
            float32 where they are normalized).
        memory_format: of the images: torch.contiguous_format or torch.channels_last (default: contiguous, as they are
            decoded; with ``prefetch_to``, the device's).
        decoder: "auto" = our own JPEG decoder, and libjpeg-turbo for unusual JPEGs; "libjpeg" = libjpeg-turbo for all. The pixels
            are the same; ``decode_paths`` counts which JPEG took which.
        on_error: what to do about a sample that cannot be decoded: "raise" names the first in the epoch's order; "skip" makes
            its batch shorter by it, and lists it in ``skipped``.  A batch of which nothing is left is skipped, or an error
            with ``drop_last``, where all ranks make as many steps.
        stall_s: when no thread has finished anything for so many seconds, the log "alexnet_fast" gets a warning with what each
            thread is doing; after five times that it is an error.
        image_field, label_field: names of the fields to load, as the file stores them; needed only where it has several
            RGB images or several ints.  A float field is the label if it is named, or if there is no int field; an array of one
            dimension, if it is named, or if there is neither.  In files of ``pack_dataset`` it is the field "label".
        fields: what a batch has, by the names of the file's fields: ``("image", "label", "attrs")`` makes each batch a named
            tuple of these (``fields.FieldBatch``); None = the pair (images, labels).

    Raises:
        UserError: an option out of range or of a wrong type.
    """

    train: bool
    size: int | tuple[int, int] = 224
    seed: int = 0
    threads: int | None = None
    rank: int | None = None
    world_size: int | None = None
    indices: Sequence[int] | np.ndarray | None = None
    shuffle: bool | None = None
    order: GivenOrder | None = None
    weights: Sequence[float] | None = None
    drop_last: bool | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    augmentations: Sequence[Augmentation] = ()
    mix: Mix | None = None
    center_ratio: float = 224 / 256
    interpolation: Interpolation = "bilinear"
    views: int = 1
    batches_ahead: int = 3
    read_ahead_bytes: int = 64 << 20
    pin_memory: bool = False
    normalize: MeanAndStd | None = None
    dtype: torch.dtype | None = None
    memory_format: torch.memory_format | None = None
    decoder: DecoderName = "auto"
    on_error: OnError = "raise"
    stall_s: float = STALL_S
    image_field: str | None = None
    label_field: str | None = None
    fields: Sequence[str] | None = None

    def __post_init__(self) -> None:
        # indices and the fields are checked against the file, which is not open yet.
        rank, world_size = share_of(self.rank, self.world_size)
        shuffle = None if self.shuffle is None else flag("shuffle", self.shuffle)
        if self.order is not None and shuffle:
            raise UserError(
                "shuffle = True and an order: an order says itself how it is shuffled, so give one of the two"
            )
        if self.weights is not None and (shuffle is not None or self.order is not None):
            raise UserError(
                "weights and an order or shuffle: weights are an order, drawn at random, so give one of them"
            )
        choice("decoder", self.decoder, ("auto", "libjpeg"))
        choice("on_error", self.on_error, ("raise", "skip"))
        choice("interpolation", self.interpolation, ("bilinear", "bicubic"))
        set_checked(
            self,
            train=flag("train", self.train),
            size=image_size("size", self.size),
            seed=seed_of("seed", self.seed),
            threads=None
            if self.threads is None
            else whole("threads", self.threads, "at least 1", lambda n: n >= 1),
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            order=order_of(self.order),
            weights=None if self.weights is None else weights_of("weights", self.weights),
            drop_last=None if self.drop_last is None else flag("drop_last", self.drop_last),
            scale=crop_scale("scale", self.scale),
            ratio=crop_ratio("ratio", self.ratio),
            flip=probability("flip", self.flip),
            augmentations=augmentations_of("augmentations", self.augmentations),
            mix=_mix_of(self.mix),
            center_ratio=number(
                "center_ratio", self.center_ratio, "0 < center_ratio <= 1", lambda r: 0 < r <= 1
            ),
            views=whole("views", self.views, "1 to 64", lambda n: 1 <= n <= 64),
            batches_ahead=whole("batches_ahead", self.batches_ahead, "at least 1", lambda n: n >= 1),
            read_ahead_bytes=whole("read_ahead_bytes", self.read_ahead_bytes, "at least 0", lambda n: n >= 0),
            pin_memory=flag("pin_memory", self.pin_memory),
            normalize=normalize_of(self.normalize),
            dtype=dtype_of(self.dtype, self.normalize is not None),
            memory_format=memory_format_of(self.memory_format),
            stall_s=number("stall_s", self.stall_s, "more than 0 seconds", lambda s: s > 0),
            fields=field_names_of(self.fields),
        )

    @property
    def drops_last(self) -> bool:
        """Whether the rest of an epoch is skipped, given or as ``train``."""
        return self.train if self.drop_last is None else self.drop_last

    @property
    def shuffles(self) -> bool:
        """Whether each epoch has another order of all samples, given or as ``train``."""
        ordered = self.order is not None or self.weights is not None
        return self.train and not ordered if self.shuffle is None else self.shuffle

    @property
    def reads_at_random(self) -> bool:
        """Whether an epoch touches the file in another order than its own."""
        return self.shuffles or self.order is not None or self.weights is not None

    @property
    def image_dtype(self) -> torch.dtype:
        """Of the images, given or as ``normalize`` needs it."""
        return self.dtype or (torch.uint8 if self.normalize is None else torch.float32)

    @property
    def crop_options(self) -> CropOptions:
        """What ``decode.crop`` needs of these."""
        height, width = sides(self.size)
        resize = round(height / self.center_ratio), round(width / self.center_ratio)
        return CropOptions(
            self.train,
            self.size,
            resize,
            np.uint64(self.seed),
            self.scale,
            self.ratio,
            self.flip,
            self.interpolation == "bicubic",
        )


def _mix_of(given: object) -> Mix | None:
    if given is None:
        return None
    from ..augment.mix import Mix  # a Loader without one imports none of it

    return instance("mix", given, Mix, "a Mix of alexnet_fast.augment, or None")


class LoaderKeywords(TypedDict, total=False):
    """The fields of LoaderOptions as keyword arguments, for type checkers and editors."""

    train: bool
    size: int | tuple[int, int]
    seed: int
    threads: int | None
    rank: int | None
    world_size: int | None
    indices: Sequence[int] | np.ndarray | None
    shuffle: bool | None
    order: GivenOrder | None
    weights: Sequence[float] | None
    drop_last: bool | None
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    augmentations: Sequence[Augmentation]
    mix: Mix | None
    center_ratio: float
    interpolation: Interpolation
    views: int
    batches_ahead: int
    read_ahead_bytes: int
    pin_memory: bool
    normalize: MeanAndStd | None
    dtype: torch.dtype | None
    memory_format: torch.memory_format | None
    decoder: DecoderName
    on_error: OnError
    stall_s: float
    image_field: str | None
    label_field: str | None
    fields: Sequence[str] | None


def options_of(given: object, keywords: LoaderKeywords) -> LoaderOptions:
    """The options that were given, with these keyword arguments in place of what they hold, or made of these alone."""
    if given is None:
        return LoaderOptions(**keywords)  # type: ignore[typeddict-item]
    options = instance("options", given, LoaderOptions, "a LoaderOptions, or keyword arguments alone")
    return replace(options, **keywords)


def shows_options(constructor: Constructor) -> Constructor:
    """Have help() and inspect.signature show the options as the keyword arguments of a constructor that takes them."""
    signature = inspect.signature(constructor)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    options = inspect.signature(LoaderOptions).parameters.values()
    shown: Any = constructor
    shown.__signature__ = signature.replace(parameters=[*own, *options])
    shown.__doc__ = LoaderOptions.__doc__
    return constructor
