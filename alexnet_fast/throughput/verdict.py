"""From what the stages can do to what the whole can do, which stage binds, and what would lift it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .copy import Copy
from .decode import Decode
from .modes import Mode
from .read import Read
from .step import Step
from .whole import Whole

Stage = Literal["read", "decode", "copy", "step", "all-reduce"]
WORDS: dict[str, str] = {
    "read": "reading samples",
    "decode": "decoding",
    "copy": "copying to the device",
    "step": "the training step",
    "all-reduce": "summing gradients over the ranks",
}
AGREES = 0.15  # a difference from the model that it explains


@dataclass(frozen=True)
class Stages:
    """Every stage's measurement, and the cores that decoding and, on a CPU, the step share."""

    read: Read
    decode: Decode
    modes: list[Mode]
    copy: Copy | None
    step: Step
    whole: Whole
    ranks: int
    cores: int
    """Of all ranks together."""

    @property
    def shares_cores(self) -> bool:
        """Whether the step computes on the cores that decode."""
        return self.copy is None

    @property
    def decode_threads(self) -> int:
        """Of all ranks together, as many as there are cores for."""
        return min(self.decode.threads * self.ranks, self.cores)

    def ceilings(self) -> dict[str, float]:
        """What each stage could do alone, as things stand, in img/s over all ranks."""
        read = self.read.at(self.whole.resident_share)
        found = {"read": read, "decode": self.decode.img_per_s, "step": self.step.img_per_s.median}
        if self.copy is not None:
            found["copy"] = self.copy.img_per_s
        return found


@dataclass(frozen=True)
class Verdict:
    """binding: the stage that sets the speed.  predicted_img_per_s: what the stages' ceilings make together.

    model: how.  share_of_ceiling: end to end over what was predicted.  text: for a reader.
    """

    binding: Stage
    ceilings_img_per_s: dict[str, float]
    predicted_img_per_s: float
    model: str
    share_of_ceiling: float
    text: str


def judge(stages: Stages) -> Verdict:
    """Name what binds."""
    ceilings = stages.ceilings()
    lowest = min(ceilings, key=ceilings.__getitem__)
    predicted, binding, model = (
        ceilings[lowest],
        lowest,
        "the lowest ceiling: the stages run beside each other",
    )
    if stages.shares_cores:
        # Core-seconds an image, over the cores: the step's and the decoding threads' add up where both are busy.
        step_s = stages.step.cpu_share / ceilings["step"]
        decode_s = stages.decode_threads / stages.cores / ceilings["decode"]
        if step_s + decode_s > 1 / predicted:
            predicted = 1 / (step_s + decode_s)
            binding = "step" if step_s > decode_s else "decode"
            model = "decoding and the step share the cores, so their core-seconds an image add up"
    summing = stages.step.all_reduce_ms
    if binding == "step" and summing is not None and summing.median > stages.step.step_ms.median / 2:
        binding = "all-reduce"
    share = stages.whole.img_per_s.median / predicted
    verdict = Verdict(binding, ceilings, predicted, model, share, "")  # type: ignore[arg-type]
    return Verdict(binding, ceilings, predicted, model, share, in_words(stages, verdict))  # type: ignore[arg-type]


def in_words(stages: Stages, verdict: Verdict) -> str:
    """The paragraph."""
    whole, ceilings, binding = stages.whole, verdict.ceilings_img_per_s, verdict.binding
    others = {
        name: rate
        for name, rate in ceilings.items()
        if name != binding and (binding, name) != ("all-reduce", "step")
    }
    sentences = [
        f"{WORDS[binding].capitalize()} is the limit: training makes {whole.img_per_s.median:,.0f} img/s, "
        f"{100 * verdict.share_of_ceiling:.0f} % of the {verdict.predicted_img_per_s:,.0f} img/s that the stages allow together.",
        "Alone, "
        + ", ".join(
            f"{WORDS[name]} would make {rate:,.0f}"
            for name, rate in sorted(others.items(), key=lambda item: item[1])
        )
        + f"; {WORDS[binding]} makes {ceilings['step' if binding == 'all-reduce' else binding]:,.0f}.",
        f"The step waits for data {100 * whole.data_wait_share:.0f} % of its time.",
    ]
    if stages.shares_cores:
        sentences.append("Decoding and the step share the cores, so each makes less than alone.")
    if abs(verdict.share_of_ceiling - 1) > AGREES:
        sentences.append(
            f"End to end is {'less' if verdict.share_of_ceiling < 1 else 'more'} than the stages explain: see timeline.json, "
            "and whether something else was busy on this machine."
        )
    advise = {
        "read": _more_bytes,
        "decode": _more_pixels,
        "copy": _more_link,
        "step": _more_step,
        "all-reduce": _more_sums,
    }
    wanted = min(others.values())
    return " ".join([*sentences, *advise[binding](stages, wanted)])


def _more_pixels(stages: Stages, wanted: float) -> list[str]:
    """How many cores, or which storage mode, would lift decoding to `wanted` img/s."""
    decode, said = stages.decode, []
    now, threads = decode.img_per_s, stages.decode_threads
    best = max(decode.scaling, key=lambda point: point.img_per_s.median)
    if best.threads > decode.threads and best.img_per_s.median > 1.1 * now:
        said.append(
            f"data.threads = {decode.threads} leaves cores idle: {best.threads} threads a rank made "
            f"{best.img_per_s.median:,.0f} img/s; set data.threads = 0."
        )
        now, threads = best.img_per_s.median, min(best.threads * stages.ranks, stages.cores)
    if now < wanted:
        cores = math.ceil(wanted / (now / threads))
        said.append(
            f"To reach the next limit, {wanted:,.0f} img/s, it takes about {cores} cores in place of {threads} "
            f"({now / threads:,.0f} img/s each)" + _or_modes(stages, now, wanted) + "."
        )
    return said


def _or_modes(stages: Stages, now: float, wanted: float) -> str:
    as_it_is, *others = stages.modes
    found = [
        f"packed as {mode.name} ({mode.options}) the same cores would make {now * factor:,.0f}"
        for mode in others
        if (factor := as_it_is.decode_us.median / mode.decode_us.median) > 1.1
    ]
    return (
        "; or, decoded here from some of these samples packed again, " + ", and ".join(found) if found else ""
    )


def _more_bytes(stages: Stages, wanted: float) -> list[str]:
    read = stages.read
    rate = read.disk_bytes_per_s.median if read.disk_bytes_per_s else read.cached_bytes_per_s.median
    said = [
        f"{100 * (1 - stages.whole.resident_share):.0f} % of the file comes from the disk, which gives {rate / 1e6:,.0f} MB/s; "
        f"{wanted:,.0f} img/s want {wanted * read.sample_bytes / 1e6:,.0f} MB/s of samples of {read.sample_bytes / 1e3:,.0f} kB."
    ]
    if read.file_bytes <= read.available_bytes:
        said.append(
            f"The file ({read.file_bytes / 1e9:,.1f} GB) fits into the memory that is free ({read.available_bytes / 1e9:,.1f} GB), so this "
            f"holds for the first epoch only: from the page cache it would make {read.at(1.0):,.0f} img/s."
        )
    else:
        said.append(
            f"The file ({read.file_bytes / 1e9:,.1f} GB) does not fit into the memory that is free ({read.available_bytes / 1e9:,.1f} GB): "
            "put it on a faster disk, or pack it smaller."
        )
    as_it_is, *others = stages.modes
    if smaller := [mode for mode in others if mode.sample_bytes < 0.9 * as_it_is.sample_bytes]:
        least = min(smaller, key=lambda mode: mode.sample_bytes)
        said.append(
            f"Packed as {least.name} ({least.options}) a sample takes {least.sample_bytes / 1e3:,.0f} kB."
        )
    return said


def _more_link(stages: Stages, wanted: float) -> list[str]:
    copy = stages.copy
    assert copy is not None
    return [
        f"The link carries {copy.pinned_bytes_per_s.median / 1e9:,.2f} GB/s from page-locked memory, and images are bytes already: "
        "see that each card has its own full-width slot and that ranks lie on their card's NUMA node "
        "(python -m alexnet_fast.doctor), or train with a smaller data.size."
    ]


def _more_step(stages: Stages, wanted: float) -> list[str]:
    step = stages.step
    parts = {
        "the forward pass": step.forward_ms,
        "the backward pass": step.backward_ms,
        "the optimizer": step.optimizer_ms,
    }
    said = "A step takes {:,.1f} ms: {}.".format(
        step.step_ms.median, ", ".join(f"{name} {figure.median:,.1f}" for name, figure in parts.items())
    )
    return [said, "More pipeline would not help: a faster device, or more of them, would."]


def _more_sums(stages: Stages, wanted: float) -> list[str]:
    step = stages.step
    assert step.all_reduce_ms is not None
    return [
        f"Summing gradients adds {step.all_reduce_ms.median:,.1f} ms to a step that takes {step.step_ms.median:,.1f}: a larger "
        'batch on each rank sums less often, precision.reduce = "half" halves the traffic where it is "float32", and a faster link '
        "between ranks helps."
    ]
