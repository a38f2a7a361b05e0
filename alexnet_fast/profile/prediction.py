"""What the stages make together: from the ceiling of each to the speed of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from .copying import Copy
from .decoding import Decode
from .end_to_end import EndToEnd
from .queueing import Queue
from .repack import StorageOption
from .stepping import Step
from .storage import Read

Stage = Literal["read", "decode", "copy", "step", "all-reduce", "queue", "ahead"]
"""Of "ahead", batches that are not prepared far enough ahead, there is no ceiling."""


@dataclass(frozen=True)
class Stages:
    """Every stage's measurement, and the cores that decoding and, on a CPU, the step share."""

    read: Read
    decode: Decode
    modes: list[StorageOption]
    copy: Copy | None
    step: Step
    whole: EndToEnd
    ranks: int
    cores: int
    """Of all ranks together."""
    queue: Queue | None = None

    @property
    def shares_cores(self) -> bool:
        """Whether the step computes on the cores that decode."""
        return self.copy is None

    @property
    def decode_threads(self) -> int:
        """Of all ranks together, at most one for each core."""
        return min(self.decode.threads * self.ranks, self.cores)

    @property
    def fits_into_memory(self) -> bool:
        """Whether the page cache has room for the file, so that it is read from there from the second epoch on."""
        return self.read.file_bytes <= self.read.available_bytes

    @property
    def summing_share(self) -> float:
        """The share of a step that summing gradients takes, 0 to 1."""
        summing = self.step.all_reduce_ms
        return summing.median / self.step.step_ms.median if summing else 0.0

    def all_reduce_if_it_binds(self, stage: Stage) -> Stage:
        """The stage, or for a step that mostly sums gradients, that."""
        return "all-reduce" if stage == "step" and self.summing_share > 0.5 else stage

    def ceilings(self, resident_share: float | None = None) -> dict[Stage, float]:
        """What each stage could do alone, in img/s over all ranks, with this share of the file in the page cache (default: as now)."""
        resident_share = self.whole.resident_share if resident_share is None else resident_share
        found: dict[Stage, float] = {
            "read": self.read.at(resident_share),
            "decode": self.decode.img_per_s,
            "step": self.step.img_per_s.median,
        }
        if self.copy is not None:
            found["copy"] = self.copy.img_per_s
        if self.queue is not None:
            found["queue"] = self.queue.img_per_s.median
        return found


class Prediction(NamedTuple):
    """What the stages make together, and the one that is the bottleneck.

    cores_s: seconds an image in which all cores are busy with the step, and with decoding, if their sum is the limit.
    """

    img_per_s: float
    binding: Stage
    cores_s: tuple[float, float] | None = None


def predict(stages: Stages, ceilings: dict[Stage, float]) -> Prediction:
    """What stages with these ceilings would make together."""
    lowest = min(ceilings, key=ceilings.__getitem__)
    found = Prediction(ceilings[lowest], lowest)
    if stages.shares_cores:
        step_s = stages.step.cpu_share / ceilings["step"]
        decode_s = stages.decode_threads / stages.cores / ceilings["decode"]
        if step_s + decode_s > 1 / found.img_per_s:
            more: Stage = "step" if step_s > decode_s else "decode"
            found = Prediction(1 / (step_s + decode_s), more, (step_s, decode_s))
    return found._replace(binding=stages.all_reduce_if_it_binds(found.binding))
