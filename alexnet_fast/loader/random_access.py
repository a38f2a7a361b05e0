"""Single samples by their places in the file, decoded by the kernels of the threads, on the caller's thread."""

from __future__ import annotations

import threading

import numpy as np
import torch

from ..augment.augmenter import Augmenter
from ..beton.reader import Beton
from ..beton.several import BetonSet
from ..decode.counter_rng import occurrences
from ..decode.crop import CROP_DTYPE, draw_crops
from ..decode.decoder import Decoder
from ..decode.kernel import sample_table
from ..decode.status import MEANING, BrokenSample
from .buffer_pool import Batch
from .options import LoaderOptions
from .orders import checked_places
from .preload import kernels
from .views import images_of


class RandomAccess:
    """Decodes any samples of a file, as a loader with these options does in an epoch.  Any thread may call it.

    Args:
        beton: the file.
        options: of the loader.
        samples: (N,) kernel.SAMPLE_DTYPE, all of the file; None = not known yet.
    """

    def __init__(self, beton: Beton, options: LoaderOptions, samples: np.ndarray | None = None) -> None:
        self._beton, self._crop_options = beton, options.crop_options
        self._shape = options.views, *options.crop_options.size
        self._augmenter = Augmenter(options.augmentations, options.seed)
        self._samples = sample_table(beton) if samples is None else samples
        self._lock = threading.Lock()  # a decoder is one thread's at a time
        kernels.wait(give_up=lambda: False)
        self._decoder = Decoder(options.size, options.decoder, options.crop_options.cubic)

    def get(self, indices: object, epoch: int) -> Batch:
        """The samples at these places in the file, in memory of their own, as (images, labels).

        The k-th copy of a sample has the crop, flip and augmentations of its k-th copy in that epoch.

        Raises:
            UserError: no such places.
            BrokenSample: one cannot be decoded; it is named.
        """
        places = checked_places("indices", indices, self._beton.num_samples, str(self._beton.path))
        samples = self._samples[places]
        samples["occurrence"] = occurrences(places)
        views, height, width = self._shape
        boxes, statuses = np.empty((views, len(places)), CROP_DTYPE), np.zeros(len(places), np.uint8)
        images = np.empty((views, len(places), 3, height, width), np.uint8)
        draw_crops(samples, np.uint64(epoch), self._crop_options, boxes)
        beton = self._beton
        unchanged = beton.unchanged_at(places) if isinstance(beton, BetonSet) else beton.unchanged
        with self._lock, unchanged:
            done = self._decoder.decode(self._beton.map, samples, boxes, images, statuses)
        self._augmenter.apply(samples, epoch, images, statuses, done)
        if statuses.any():
            broken = int(np.flatnonzero(statuses)[0])
            raise BrokenSample(
                f"{self._beton.source(int(places[broken]))} cannot be decoded: {MEANING[int(statuses[broken])]}; pack it again, "
                "or the set without it"
            )
        labels = self._beton.labels[places].astype(self._beton.target_field.dtype)
        every_view = images_of([torch.from_numpy(view) for view in images])
        return Batch(every_view, torch.from_numpy(labels), torch.from_numpy(places))
