"""The kernels of a decoding thread, loaded or compiled once a process, in the background, while its users set up other things."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

import numpy as np

from ..augment.augmentation import Augmentation
from ..augment.augmenter import Augmenter
from ..decode.crop import CROP_DTYPE, CropOptions, draw_crops
from ..decode.decoder import Decoder
from ..decode.kernel import SAMPLE_DTYPE
from .page_advice import PAGE, WILLNEED, advise_willneed
from .sampler import epoch_permutation

POLL_S = 0.02


class WarmUp:
    """Runs ``work`` once a process, on a thread of its own, from the first ``wait`` on.

    The thread outlives whoever waits, and the interpreter waits for its end: half a compilation is worth nothing to the next start.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work, self._name = work, name
        self._renew()
        os.register_at_fork(after_in_child=self._renew)  # threads do not survive a fork

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def wait(self, give_up: Callable[[], bool]) -> bool:
        """Whether the work is done; waits for it until ``give_up()``, and raises what it raised."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=False)
                thread.start()
                self._thread = thread
        while self._thread.is_alive():
            if give_up():
                return False
            self._thread.join(POLL_S)
        if self._error is not None:
            raise self._error
        return True

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # for those who wait
            self._error = error


def load_all(augmentations: Sequence[Augmentation] = ()) -> None:
    """Load whatever a decoding thread will call, or compile it, once on a machine: the threads' own way with no sample at all.

    A build of an image, say, that calls this leaves the machine code in the package, for processors of the same kind.

    Args:
        augmentations: those that the Loaders will be given.
    """
    nothing = np.frombuffer(b"", np.uint8)  # read-only, as a map of a file is
    cropping = CropOptions(True, 1, 1, np.uint64(0), (1.0, 1.0), (1.0, 1.0), 0.0)
    epoch_permutation(0, seed=0, epoch=0)
    advise_willneed(nothing, np.empty(0, SAMPLE_DTYPE), PAGE, WILLNEED)
    images, statuses = np.empty((1, 0, 3, 1, 1), np.uint8), np.empty(0, np.uint8)
    with Decoder(size=1) as decoder:
        samples, boxes = np.empty(0, SAMPLE_DTYPE), np.empty((1, 0), CROP_DTYPE)
        draw_crops(samples, np.uint64(0), cropping, boxes)
        decoder.decode(nothing, samples, boxes, images, statuses)
    Augmenter(augmentations, seed=0).load(SAMPLE_DTYPE)


kernels = WarmUp(load_all, "load-kernels")
