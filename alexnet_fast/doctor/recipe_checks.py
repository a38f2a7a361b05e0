"""What a recipe needs from the machine: its files, memory, cores and devices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..common.command_name import typed
from ..common.disk_space import room_for_checkpoints
from ..common.machine import Machine
from ..common.sizes import sides
from ..common.text import plural, size
from ..common.urls import shown, url_of
from ..errors import UserError
from ..models import ModelSpec, spec_of
from .accelerators import Torch
from .finding import Finding, fault, ok, warning

if TYPE_CHECKING:
    from ..beton.reader import Beton
    from ..recipe import GivenBetons, Recipe

CACHED = 0.9  # of a file: with more, the speed of its disk hardly matters
# Measured on 2 cores of an AMD EPYC (README): 500 px JPEGs of 67 kB at 2,373 img/s a core, 256 px raw ones at 10,288.
DECODED_BYTES_PER_S = {0: 159e6, 1: 1.6e9}  # by the images' mode, JPEG and raw
DECODED_IMG_PER_S = 2500  # 500 px JPEGs, by one core, about
LIBRARIES_BYTES = 400 << 20  # of one rank: interpreter, torch, compiled kernels
# O2 keeps half weights and gradients, float32 masters, momenta and gradients.
BYTES_A_PARAMETER = 2 + 2 + 4 + 4 + 4
HELD = 2  # batches outside the buffer pool: one being copied, one in its step


class Use(NamedTuple):
    """How the recipe would run on this machine."""

    device: str
    world_size: int
    nproc: int


def use_of(recipe: Recipe, torch: Torch) -> Use:
    device = recipe.run.device.partition(":")[0]
    asked = recipe.distributed
    return Use(torch.kind if device == "auto" else device, asked.nproc * asked.hosts, asked.nproc)


def device(recipe: Recipe, use: Use, torch: Torch) -> Finding:
    """Whether the devices that the recipe needs are there."""
    text = f"run.device = {recipe.run.device!r}, {plural(use.nproc, 'rank')} on this host"
    if "error" in torch.run:
        return fault("device", f"{text}, but torch does not load", "see torch and torch_npu above")
    if use.device == "cpu":
        return ok("device", text + (": the CPU" if recipe.run.device == "auto" else ""))
    if torch.kind != use.device:
        return fault(
            "device", f"{text}, but torch has no usable {use.device}", "see above, or --set run.device=cpu"
        )
    if use.nproc > torch.usable:
        return fault(
            "device",
            f"{text}, but there {'is' if torch.usable == 1 else 'are'} {torch.usable} {use.device}",
            f"--set distributed.nproc={torch.usable}",
        )
    return ok("device", f"{text}, on {torch.usable} {use.device}")


def cores(recipe: Recipe, use: Use, machine: Machine) -> Finding:
    """The decoding threads of all ranks, and what a card needs, compared with the available cores."""
    each = machine.cores / use.nproc
    text = f"{each:g} a rank ({machine.cores} for {plural(use.nproc, 'rank')})"
    if machine.cores < use.nproc:
        return warning(
            "cores a rank",
            f"{text}: ranks take turns",
            f"--set distributed.nproc={machine.cores}, or more cores",
        )
    threads = recipe.data.threads
    if threads > each:
        return warning(
            "cores a rank",
            f"{text}, but data.threads = {threads}: threads take turns",
            "--set data.threads=0",
        )
    if use.device == "cpu":
        return ok("cores a rank", text)
    spec = spec_of(recipe.model.name)
    decoded = f"{text}, which decode some {each * DECODED_IMG_PER_S:,.0f} images/s of 500 px"
    if spec.card_img_per_s is None:
        unknown = f"there is no figure for how fast an accelerator trains {spec.title}"
        return ok(
            "cores a rank", f"{decoded}, and {unknown}: train with --profile to see whether that is enough"
        )
    if each * DECODED_IMG_PER_S < spec.card_img_per_s:
        return warning(
            "cores a rank",
            f"{decoded}, and an accelerator trains {spec.title} on {spec.card_img_per_s:,.0f} or more",
            f"give it more cores, or pack smaller images ({typed('pack')} --max-resolution 256, or --mode raw)",
        )
    return ok("cores a rank", text)


def memory(recipe: Recipe, use: Use, machine: Machine) -> Iterator[Finding]:
    """Batches in host memory, and on a CPU the model, compared with the available memory."""
    ring_bytes = use.nproc * _ring_bytes(recipe, use)
    pinned, rest = use.device != "cpu", "libraries"
    expected = ring_bytes + use.nproc * LIBRARIES_BYTES
    if not pinned:
        batch = recipe.data.global_batch_size // use.world_size
        spec, pixels = spec_of(recipe.model.name), math.prod(sides(recipe.data.largest_size))
        if spec.parameters is None or spec.activation_bytes is None:
            rest = f"libraries, but not the model: there are no figures for {spec.title}"
        else:
            rest, part = "libraries and the model", -(-batch // recipe.schedule.accumulate)
            a_parameter = BYTES_A_PARAMETER + 4 * (recipe.tensors_in_checkpoint - 2)
            expected += use.nproc * spec.parameters(recipe.model.num_classes) * a_parameter
            expected += use.nproc * part * pixels * spec.activation_bytes
    text = f"about {size(expected)} ({size(ring_bytes)} of batches, and {rest}), {size(machine.available_bytes)} available"
    remedy = "lower data.batches_ahead, data.global_batch_size or distributed.nproc, or give it more memory"
    if expected > machine.memory_bytes:
        yield fault("memory to train", text, remedy)
    elif expected > machine.available_bytes:
        yield warning("memory to train", text, f"end other programs; or {remedy}")
    else:
        yield ok("memory to train", text)
    if pinned:
        limit, text = machine.lockable_bytes, f"{size(ring_bytes)} of batches"
        if limit is None or ring_bytes // use.nproc <= limit:
            yield ok(
                "pinned memory", f"{text}, {'no limit' if limit is None else f'limit {size(limit)} a rank'}"
            )
        else:
            yield warning(
                "pinned memory",
                f"{text}, but a process may lock {size(limit)}; a driver that applies this limit refuses them",
                "ulimit -l unlimited (docker run --ulimit memlock=-1, systemd LimitMEMLOCK=infinity)",
            )


def results(recipe: Recipe) -> Finding:
    """Whether the run's folder can be written, and its disk has room for the checkpoints; training warns by this too."""
    spec = spec_of(recipe.model.name)
    # Of a network that has to be built to be known, nothing: training warns.
    parameters = 0 if spec.parameters is None else spec.parameters(recipe.model.num_classes)
    room = room_for_checkpoints(
        recipe.folder, recipe.max_checkpoints, parameters, recipe.tensors_in_checkpoint
    )
    return fault("results", room.found, room.remedy) if room.remedy else ok("results", room.found)


class File(NamedTuple):
    """A beton of the recipe."""

    name: str
    path: GivenBetons
    batch: int
    """Samples of a step, and so the fewest that it must hold."""
    url: str = ""
    """Of a file that is elsewhere and not in the cache yet; of several, the first."""

    @property
    def disk(self) -> int:
        """The device that holds it, or the first file of several.

        Raises:
            OSError, UserError: there is no such file.
        """
        from ..beton.several import expanded

        return expanded(self.path)[0].stat().st_dev


def files(recipe: Recipe, use: Use) -> list[File]:
    """The betons that a run of the recipe opens."""
    if recipe.data.synthetic:
        return []
    train = _file("train", recipe.data.train, recipe.data.global_batch_size)
    val = _file("val", recipe.data.val, 1)
    needs_val = recipe.eval.only or recipe.eval.every > 0
    return [*([] if recipe.eval.only else [train]), *([val] if needs_val else [])]


def _file(name: str, given: GivenBetons, batch: int) -> File:
    places, missing = list[str](), ""
    for one in (given,) if isinstance(given, str) else given:
        there = None
        if (url := url_of(one)) is not None:
            from ..remote.cached_copy import copy_there

            there = copy_there(url)
            missing = missing or ("" if there else url)
        places.append(str(there or one))
    return File(name, places[0] if isinstance(given, str) else tuple(places), batch, missing)


def examine_file(
    file: File, recipe: Recipe, use: Use, machine: Machine, reads_disk: bool
) -> Iterator[Finding]:
    """A beton's contents, how much of it is in the page cache and, if `reads_disk`, the speed of its disk."""
    from ..beton.several import open_beton

    if file.url:
        yield _elsewhere(file)
        return
    try:
        beton = open_beton(file.path, **recipe.data.fields)
    except UserError as error:
        found, _, remedy = str(error).rpartition("; ")
        pack = f"pack it: {typed('pack')} --data IMAGENET --out FOLDER, and name the file in [data]"
        yield fault(f"{file.name} set", found or str(error), remedy if found else pack)
        return
    with beton:
        yield _contents(file, beton, recipe, use)
        yield from _cached(file, beton, recipe, use, machine, reads_disk)


def _elsewhere(file: File) -> Finding:
    """What the server says of a file that a run fetches first."""
    from ..remote.cached_copy import facts_of
    from ..remote.fetch import FetchOptions

    try:
        facts = facts_of(file.url, FetchOptions(stall_s=10.0, tries=2))
    except UserError as error:
        found, _, remedy = str(error).rpartition("; ")
        return fault(f"{file.name} set", found or str(error), remedy)
    return ok(
        f"{file.name} set",
        f"{shown(file.url)}: {size(facts.size)}, not in the cache yet; a run fetches it first",
    )


def _contents(file: File, beton: Beton, recipe: Recipe, use: Use) -> Finding:
    from ..beton.target_fields import TARGETS, described, misfit

    text = f"{beton.path}: {size(beton.num_bytes)}, {plural(beton.num_samples, 'sample')}, {described(beton)}"
    if found := misfit(beton, recipe.model.task, recipe.model.num_classes):
        return fault(f"{file.name} set", f"{text}: {found.has}, but {found.but}", found.flags)
    if file.batch % use.world_size and file.batch > 1:
        return fault(
            f"{file.name} set",
            f"{text}; data.global_batch_size = {file.batch} does not divide over {use.world_size} ranks",
            f"--set data.global_batch_size={-(-file.batch // use.world_size) * use.world_size}",
        )
    if beton.num_samples < file.batch:
        return fault(
            f"{file.name} set",
            f"{text}; fewer than data.global_batch_size = {file.batch}",
            f"--set data.global_batch_size={max(1, beton.num_samples // use.world_size) * use.world_size}",
        )
    if not TARGETS[recipe.model.task].are_classes:
        return ok(f"{file.name} set", text)
    classes = beton.num_classes
    if 2 * classes < recipe.model.num_classes:
        return warning(
            f"{file.name} set",
            f"{text}, but the model has {recipe.model.num_classes} classes, most of which it never sees",
            f"--set model.num_classes={classes}, if the set is complete",
        )
    if classes < recipe.model.num_classes:
        text += f" of {recipe.model.num_classes}"
    return ok(f"{file.name} set", text)


def classes(recipe: Recipe, use: Use) -> list[Finding]:
    """Whether labels mean the same in the training set and in the evaluation set; nothing if a run opens only one of them."""
    from ..beton.classes import Classes, difference, doubt
    from ..beton.several import open_beton
    from ..beton.target_fields import TARGETS

    if len(sets := files(recipe, use)) < 2 or not TARGETS[recipe.model.task].are_classes:
        return []
    if any(file.url for file in sets):  # not here yet, so there is nothing to compare
        return []
    try:
        both, at = [], ""
        for file in sets:
            with open_beton(file.path, **recipe.data.fields) as beton:
                if beton.target_field != TARGETS[recipe.model.task].field:  # which its own finding reports
                    return []
                both.append(Classes.of(beton))
                at = beton.names_at
    except UserError:  # which another finding reports
        return []
    train, val = both
    remedy = "pack both from one folder with train/ and val/"
    if differs := difference(train, val):
        return [fault("classes", differs, f"{remedy}; where only the names differ, move {at} away")]
    if doubtful := next((each.trouble for each in (train, val) if each.trouble), doubt(train, val)):
        return [warning("classes", doubtful, remedy)]
    if not (train.names and val.names):
        return [
            ok("classes", f"{train.count:,} in each set; no class names show whether labels mean the same")
        ]
    return [ok("classes", f"each label means the same in both sets, of {train.count:,}")]


def _cached(
    file: File, beton: Beton, recipe: Recipe, use: Use, machine: Machine, reads_disk: bool
) -> Iterator[Finding]:
    from ..common import page_cache

    length, share = beton.num_bytes, page_cache.resident_share_of(beton.files)
    rate = page_cache.disk_rate(page_cache.largest(beton.files)) if reads_disk else None
    missing = round(length * (1 - share))
    fits = missing <= machine.available_bytes
    room = (
        ""
        if share == 1
        else f", the rest {'fits' if fits else 'does not fit'} into the {size(machine.available_bytes)} available"
    )
    yield ok(f"{file.name} cache", f"{100 * share:.0f} % of it in the page cache{room}")
    if not reads_disk:
        return

    name = f"{file.name} disk"
    kind = machine.file_system(beton.files[0])
    if rate is None:
        cause = (
            "too small to measure"
            if length < page_cache.BLOCK
            else "not measured: all of it is cached, and this file system reads nothing around the cache"
        )
        yield ok(name, f"{kind}, {cause}")
        return
    mean = float(beton.sizes.mean())
    text = (
        f"{kind}, {rate.bytes_per_s / 1e6:,.0f} MB/s in random reads of {page_cache.BLOCK >> 10} KiB, or "
        f"{rate.bytes_per_s / mean:,.0f} img/s from a cold cache ({rate.read_bytes / 1e6:.0f} MB read)"
    )
    spec = spec_of(recipe.model.name)
    wanted = _read_bytes_per_s(beton, spec, use, machine)
    if rate.bytes_per_s >= wanted or (fits and share > CACHED):
        yield ok(name, text)
        return
    remedy = (
        f"read it into memory first: cat {_listed(beton.files)} > /dev/null"
        if fits
        else "put it on a local SSD, give the machine more memory, or pack smaller images (--max-resolution 256)"
    )
    text += f"; {plural(machine.cores, 'core')} can take {wanted / mean:,.0f} img/s"
    if use.device == "cpu" and spec.core_img_per_s is None:
        text += f" or, since there is no figure for how fast they train {spec.title}, fewer"
    yield warning(name, text, remedy)


def _listed(files: list[Path]) -> str:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{files[0]}{more}"


def _read_bytes_per_s(beton: Beton, spec: ModelSpec, use: Use, machine: Machine) -> float:
    """How fast the cores can use what is read: as fast as they decode or, on a CPU, train, where that is known."""
    decoded = DECODED_BYTES_PER_S.get(int(beton.images["mode"][0]), DECODED_BYTES_PER_S[0])
    if use.device != "cpu" or spec.core_img_per_s is None:
        return machine.cores * decoded
    return machine.cores * min(decoded, spec.core_img_per_s * float(beton.sizes.mean()))


def _ring_bytes(recipe: Recipe, use: Use) -> int:
    """Bytes of one rank's batches, of training and evaluation: those decoded ahead and those in use."""
    data, evaluation = recipe.data, recipe.eval
    sets: list[Any] = [] if evaluation.only else [(data.global_batch_size, data.largest_size)]
    if evaluation.only or evaluation.every:
        sets.append((evaluation.global_batch_size or data.global_batch_size, recipe.eval_size))
    slots = data.batches_ahead + HELD
    return sum(
        slots * -(-batch // use.world_size) * (3 * math.prod(sides(side)) + 16) for batch, side in sets
    )
