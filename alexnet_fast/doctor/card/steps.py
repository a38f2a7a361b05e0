"""How fast a training step is, on data that is on the device: by batch size and by option."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...common.sizes import sides
from ...devices.device_timer import DeviceTimer
from ...engine.train_state import TrainState
from ...errors import UserError
from ...models import spec_of
from ...profile import stepping
from ...recipe import Recipe
from .bench import Bench, fits
from .fast_paths import options
from .row import Row, judged, skipped

BATCHES, BATCHES_OF_A_CPU = (64, 128, 256, 1024), (16, 64)
LEVELS = ("O0", "O1", "O2")
LEAST_STEPS = stepping.WARM_UP_STEPS + stepping.MIN_STEPS
PATIENCE = 4  # times its part of the time, that a batch size may take


def by_batch(bench: Bench) -> Iterator[Row]:
    """The recipe's step at several batch sizes: a larger one makes at least as many images a second."""
    batches = sorted({*(BATCHES_OF_A_CPU if bench.device.is_host else BATCHES), bench.batch_size})
    seconds, before = bench.seconds / len(batches), 0.0
    for size in batches:
        name, expected = f"step, batch {size}", "as many images a second as a smaller batch, or more"
        if before and LEAST_STEPS * size / before > PATIENCE * seconds:
            yield skipped(name, expected, "would take too long on this device: give more --seconds")
            continue
        bench.say(f"steps of {size} images")
        rate = fits(lambda size=size: speed(bench, bench.recipe, size, seconds))  # type: ignore[misc]
        if rate is None:
            yield skipped(name, expected, "does not fit into the device's memory")
            return
        if size == bench.batch_size:
            bench.found["step"] = rate
        yield judged(
            name,
            rate > 0.95 * before,
            expected,
            f"{rate:,.0f} img/s, {1e3 * size / rate:,.2f} ms{_share(bench, rate)}",
            "a larger batch is slower on this card: use the smaller one",
            img_per_s=rate,
            step_ms=1e3 * size / rate,
        )
        before = max(before, rate)


def by_option(bench: Bench) -> Iterator[Row]:
    """The levels of precision, and each fast path, at the recipe's batch: they are worth it."""
    paths, float32 = options(bench), 0.0
    seconds = bench.seconds / (len(LEVELS) + len(paths))
    for level in LEVELS:
        name, expected = (
            f"step, {level}",
            "faster than O0" if level != "O0" else "float32, for comparison",
        )
        if level == bench.recipe.precision.level and "step" in bench.found:
            rate: float | None = bench.found["step"]
        else:
            bench.say(f"steps at {level}")
            recipe = bench.changed("precision", level=level)
            rate = fits(
                lambda recipe=recipe: speed(bench, recipe, bench.batch_size, seconds)  # type: ignore[misc]
            )
        if rate is None:
            yield skipped(name, expected, "does not fit into the device's memory")
            continue
        float32 = rate if level == "O0" else float32
        yield judged(
            name,
            level == "O0" or rate > float32,
            expected,
            f"{rate:,.0f} img/s"
            + (f", {rate / float32:.2f} times O0's" if float32 and level != "O0" else ""),
            f'{level} is no faster than float32 on this device: precision.level = "O0" is as fast',
            img_per_s=rate,
        )
    plain = bench.found.get("step", 0.0)
    for name, switch in paths.items():
        bench.say(f"steps with {name}")
        rate = speed(bench, bench.recipe, bench.batch_size, seconds, switch)
        yield judged(
            f"step, {name}",
            rate > plain,
            "faster than the plain step",
            f"{rate:,.0f} img/s" + (f", {rate / plain:.2f} times the plain step's" if plain else ""),
            f"engine.{name} = false is as fast on this device",
            img_per_s=rate,
        )


def speed(
    bench: Bench,
    recipe: Recipe,
    size: int,
    seconds: float,
    switch: Callable[[TrainState], None] = lambda state: None,
) -> float:
    """Images a second of a step, the plain one unless `switch` changes that; raises what torch raises without enough memory."""
    state = bench.state(recipe)
    switch(state)
    feed = bench.feed(state)
    stepping.prepare(state)
    stepping.mark(state, feed, DeviceTimer(bench.device))
    try:
        found = stepping.measure(state, feed, bench.batch(size), bench.cores, seconds, bench.world)
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of memory: {error}") from error
    return found.img_per_s.median


def _share(bench: Bench, rate: float) -> str:
    """Which part of the card's arithmetic that is."""
    if "flop_per_s" not in bench.found:
        return ""
    if "flop" not in bench.found:
        bench.found["flop"] = flop_of_an_image(bench.recipe)
    return (
        f", {100 * rate * bench.found['flop'] / bench.found['flop_per_s']:.0f} % of the products' arithmetic"
    )


def flop_of_an_image(recipe: Recipe) -> float:
    """Multiplications and additions of the forward and the backward pass."""
    model = spec_of(recipe.model.name).build(recipe.model.num_classes, recipe.model.dropout)
    images = torch.zeros(2, 3, *sides(recipe.data.largest_size))
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return float(counter.get_total_flops()) / len(images)
