"""Which stage is the bottleneck, and what would remove it, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..common.command_name import typed
from .evidence import bottleneck, contradiction, percent
from .prediction import Prediction, Stage, Stages, predict
from .stepping import PARTS

WORDS: dict[str, str] = {
    "read": "reading samples",
    "decode": "decoding",
    "copy": "copying to the device",
    "step": "the training step",
    "all-reduce": "summing gradients over the ranks",
    "queue": "queueing steps on the host",
    "ahead": "preparing batches far enough ahead",
}
AGREES = 0.15  # a larger difference from the prediction is reported
GAINS = 1.1  # times as fast; advice that gains less is not given
SUMS_MATTER = 0.1  # of a step
FEW_SLOW_SAMPLES = (
    0.03  # of the JPEGs; more of them that our own decoder leaves to libjpeg-turbo are reported
)
SUM_LESS = 'a larger batch on each rank, precision.reduce = "half" where it is "float32", or a faster link between ranks'


@dataclass(frozen=True)
class Verdict:
    """binding: the stage that limits the speed.  predicted_img_per_s: what the stages' ceilings make together.

    later_epochs_img_per_s: the same from the second epoch on, when the file is in the page cache if memory has room for it.
    model: how.  share_of_ceiling: end to end over what was predicted.  text: for a reader.
    """

    binding: Stage
    ceilings_img_per_s: dict[Stage, float]
    predicted_img_per_s: float
    later_epochs_img_per_s: float
    model: str
    share_of_ceiling: float
    text: str


def find_bottleneck(stages: Stages) -> Verdict:
    """Name the bottleneck."""
    found = predict(stages, stages.ceilings())
    lowest = found.binding
    found = found._replace(binding=bottleneck(stages, found))
    later = predict(stages, stages.ceilings(1.0)) if stages.fits_into_memory else found
    return Verdict(
        found.binding,
        stages.ceilings(),
        found.img_per_s,
        later.img_per_s,
        "the lowest ceiling: the stages run concurrently"
        if found.cores_s is None
        else "decoding and the step share the cores, so their core-seconds an image add up",
        stages.whole.img_per_s.median / found.img_per_s,
        " ".join(
            [
                *in_words(stages, found),
                *not_the_lowest(stages, lowest, found.binding),
                *ADVICE[found.binding](stages, found),
                *slow_samples(stages),
            ]
        ),
    )


def in_words(stages: Stages, found: Prediction) -> list[str]:
    """What was found."""
    whole, limit = stages.whole, WORDS[found.binding]
    share, waits = whole.img_per_s.median / found.img_per_s, f"{100 * whole.data_wait_share:.0f} %"
    shared = f"The cores are the limit, mostly for {limit}"
    alone = sorted(stages.ceilings().items(), key=lambda item: item[1])
    said = [
        (f"{limit.capitalize()} is the limit" if found.cores_s is None else shared)
        + f": training makes {whole.img_per_s.median:,.0f} img/s, {100 * share:.0f} % of the "
        f"{found.img_per_s:,.0f} img/s that the stages allow together.",
        f"Alone they make, in img/s: {listed(f'{WORDS[name]} {rate:,.0f}' for name, rate in alone)}.",
        f"The step waits for data {waits} of its time."
        if stages.shares_cores
        else f"The device is idle {percent(whole.idle_share)} of the time; the host waits {waits} for data and "
        f"{percent(whole.device_wait_share)} for the device, and queues steps {percent(whole.queue_share)}; the decoding threads work "
        f"{percent(whole.decode_busy_share)}.",
    ]
    if abs(share - 1) > AGREES:
        said.append(
            f"End to end is {'less' if share < 1 else 'more'} than the stages explain: the decoding threads worked "
            f"{100 * whole.decode_busy_share:.0f} % of the time and had a core for {100 * whole.decode_cpu_share:.0f} % of that; "
            "see timeline.json, and whether something else was busy on this machine."
        )
    return said


def not_the_lowest(stages: Stages, lowest: Stage, binding: Stage) -> list[str]:
    """If the stage that makes least alone is not the bottleneck: why it cannot be."""
    if binding == lowest or (why := contradiction(stages, lowest)) is None:
        return []
    return [f"{WORDS[lowest].capitalize()} makes least alone, but is not the limit: {why}."]


def quicker_queueing(stages: Stages, found: Prediction) -> list[str]:
    """How long the host takes for a step, and what would take it less."""
    queue, decode, whole = stages.queue, stages.decode, stages.whole
    assert queue is not None
    alone, beside = queue.alone_ms.median, queue.beside_ms.median
    said = [
        f"Queueing a step takes the host {alone:,.2f} ms alone and {beside:,.2f} ms next to the decoding threads"
        + (f", and the device computes it in {queue.device_ms.median:,.2f} ms." if queue.device_ms else ".")
    ]
    would = ["engine.graph = true (a step in one call)", "a larger batch on each rank"]
    enough = GAINS * max(whole.img_per_s.median, queue.img_per_s.median)
    fewer = [
        point
        for point in decode.scaling
        if point.threads < decode.threads and point.img_per_s.median > enough
    ]
    if beside > GAINS * alone and fewer:
        would.append(
            f"fewer decoding threads (data.threads = {fewer[0].threads} alone make {fewer[0].img_per_s.median:,.0f} img/s)"
        )
    said.append(f"More cores for decoding would not help: {listed(would, 'or')} would.")
    if (limit := without(stages, "queue")) > enough:
        said.append(f"The next limit is {limit:,.0f} img/s.")
    return said


def further_ahead(stages: Stages, found: Prediction) -> list[str]:
    """What would keep idle decoding threads busy while the host waits for data."""
    return [
        "Batches are not prepared far enough ahead: neither more cores nor smaller samples would help, a larger data.batches_ahead would."
    ]


def faster_steps(stages: Stages, found: Prediction) -> list[str]:
    """Where the time of a step goes, and what would shorten it."""
    step, sums = stages.step, stages.summing_share > SUMS_MATTER
    parts = zip(PARTS, (step.normalise_ms, step.forward_ms, step.backward_ms, step.optimizer_ms))
    said = f"A step takes {step.step_ms.median:,.1f} ms: {listed(f'{part} {figure.median:,.1f}' for part, figure in parts)}"
    if sums:
        said += f"; of it, {stages.summing_share * step.step_ms.median:,.1f} ms sum gradients over the ranks"
    if found.cores_s is not None:
        return [f"{said}.", *less_for_the_cores(stages, found)]
    would = "faster cores" if stages.shares_cores else "a faster device"
    if sums:  # more of them would sum more
        would = SUM_LESS if found.binding == "all-reduce" else f"{would}, {SUM_LESS}"
    elif not stages.shares_cores or step.cpu_share > 0.7:  # else it has more cores than it uses
        would += ", or more of them,"
    return [f"{said}.", f"More pipeline would not help: {would} would."]


def less_for_the_cores(stages: Stages, found: Prediction) -> list[str]:
    """If decoding and the step add up: what each takes, and what more cores or smaller samples would make."""
    assert found.cores_s is not None
    cores, most = stages.cores, min(2 * found.img_per_s, stages.ceilings()["read"])
    step, decode = (f"{cores * seconds * 1e3:,.2f}" for seconds in found.cores_s)
    said = [
        f"Decoding and the step share the cores: an image takes {step} ms of a core for the step and {decode} for decoding. "
        f"With {2 * cores} cores in place of {cores} training would make up to {most:,.0f} img/s."
    ]
    said += packed_otherwise(stages, found)
    if stages.summing_share > SUMS_MATTER:
        said.append(f"Summing gradients costs less with {SUM_LESS}.")
    return said


def faster_decoding(stages: Stages, found: Prediction) -> list[str]:
    """How many threads or cores, or which way to store the set, would raise decoding to the next limit."""
    said, decode, most = [], stages.decode, stages.decode.scaling[-1]
    held_back = found.cores_s is None and most.threads > decode.threads
    if held_back and most.img_per_s.median > GAINS * decode.img_per_s:
        stages = replace(stages, decode=replace(decode, threads=most.threads))
        found = predict(stages, stages.ceilings())
        said.append(
            f"data.threads = {decode.threads} leaves cores idle: with data.threads = 0, {most.threads} a rank, decoding alone made "
            f"{most.img_per_s.median:,.0f} img/s, and training would make {found.img_per_s:,.0f}."
        )
    if found.cores_s is not None:
        return said + less_for_the_cores(stages, found)
    wanted, threads = without(stages, "decode"), stages.decode_threads
    if found.binding == "decode" and not stages.shares_cores and wanted > stages.decode.img_per_s:
        each = stages.decode.img_per_s / threads
        said.append(
            f"To reach the next limit, {wanted:,.0f} img/s, it takes about {math.ceil(wanted / each)} cores in place of "
            f"{threads} ({each:,.0f} img/s each)."
        )
    return said + packed_otherwise(stages, found)


def faster_reading(stages: Stages, found: Prediction) -> list[str]:
    """How fast storage would have to be, and whether memory could hold the file."""
    read, resident, wanted = stages.read, stages.whole.resident_share, without(stages, "read")
    cached, disk = f"{read.cached_bytes_per_s.median / 1e6:,.0f} MB/s", read.disk_bytes_per_s
    free = f"the memory that is free ({read.available_bytes / 1e9:,.1f} GB)"
    then = f"The file ({read.file_bytes / 1e9:,.1f} GB) "
    gives = f"{100 * (1 - resident):.0f} % of the file comes from the disk, which "
    gives += (
        f"could not be measured and is taken to be as fast as the page cache, {cached}"
        if disk is None
        else f"gives {disk.median / 1e6:,.0f} MB/s"
    )
    if resident > 0.99:
        gives = f"The file is in the page cache, and copying out of it gives {cached}"
        then = f"Memory is the limit: smaller samples would help, or ranks on their own NUMA node ({typed('doctor')})."
    elif stages.fits_into_memory:
        later = predict(stages, stages.ceilings(1.0)).img_per_s
        then += f"fits into {free}, so this holds for the first epoch only: from the page cache training would make {later:,.0f}."
    else:
        then += f"does not fit into {free}: put it on a faster disk, or pack it smaller."
    want = f"{wanted:,.0f} img/s need {wanted * read.sample_bytes / 1e6:,.0f} MB/s of samples of {read.sample_bytes / 1e3:,.0f} kB."
    lasts = resident > 0.99 or not stages.fits_into_memory
    return [f"{gives}; {want}", then, *(packed_otherwise(stages, found) if lasts else [])]


def faster_copies(stages: Stages, found: Prediction) -> list[str]:
    """How fast the link is, and what would make it faster."""
    assert stages.copy is not None
    return [
        f"The link carries {stages.copy.pinned_bytes_per_s.median / 1e9:,.2f} GB/s from page-locked memory, and images are bytes already: "
        "check that each card has its own full-width slot and that ranks run on their card's NUMA node "
        f"({typed('doctor')}), or train with a smaller data.size."
    ]


def packed_otherwise(stages: Stages, found: Prediction) -> list[str]:
    """Which other ways to store the set would make training faster on the same machine."""
    as_it_is, *others = stages.modes
    ceilings, better = stages.ceilings(), []
    for mode in others:
        changed = ceilings | {
            "decode": ceilings["decode"] * as_it_is.decode_us.median / mode.decode_us.median,
            "read": ceilings["read"] * as_it_is.sample_bytes / mode.sample_bytes,
        }
        made = predict(stages, changed).img_per_s
        if made > GAINS * found.img_per_s:
            how = f"{mode.name} ({mode.options}; {mode.sample_bytes / 1e3:,.0f} kB a sample)"
            better.append(f"{made:,.0f} as {how}")
    if not better:
        return []
    return [f"Packed and decoded again, as some of these samples were, it would make {listed(better)}."]


def slow_samples(stages: Stages) -> list[str]:
    """How many JPEGs our own decoder leaves to libjpeg-turbo, if they are more than a few."""
    share = stages.decode.libjpeg_share
    if share <= FEW_SLOW_SAMPLES:
        return []
    return [
        f"{100 * share:.0f} % of the JPEGs are decoded by libjpeg-turbo, which is slower than our own decoder: they are progressive, of an "
        "unusual kind, or corrupt. Packed again with --mode reencode, all would be decoded by ours."
    ]


def without(stages: Stages, stage: Stage) -> float:
    """Images a second if `stage` took no time: the next limit."""
    return predict(stages, {**stages.ceilings(), stage: math.inf}).img_per_s


def listed(words: Iterable[str], join: str = "and") -> str:
    *first, last = words
    return f"{', '.join(first)} {join} {last}" if first else last


ADVICE = {
    "read": faster_reading,
    "decode": faster_decoding,
    "copy": faster_copies,
    "step": faster_steps,
    "all-reduce": faster_steps,
    "queue": quicker_queueing,
    "ahead": further_ahead,
}
