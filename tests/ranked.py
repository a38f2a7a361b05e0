"""Functions that ranks run in the tests; called_as_ranks.py starts each rank as its own process."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_fast import trainer
from alexnet_fast.devices.cpu import Cpu
from alexnet_fast.distributed import world as ranks
from alexnet_fast.distributed.flat_gradients import FlatGradients
from alexnet_fast.distributed.world import World
from alexnet_fast.engine.meter import Meter
from alexnet_fast.engine.precision import Precision
from alexnet_fast.engine.train_state import TrainState
from alexnet_fast.errors import StoppedBySignal, UserError
from alexnet_fast.models import MODELS
from alexnet_fast.profile import profiler as throughput
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import validate
from ranks_that_end import CPU, world_of
from stress.narrow_model import NARROW

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=True)


# ---------------------------------------------------------------- what two ranks agree on


def everything_that_ranks_say_to_each_other(size: int) -> None:
    """Sums, gathers, agreements, the meter and the precisions: all in one start of the processes."""
    with world_of(size) as world:
        sums_and_gathers(world)
        a_meter_reads_all_ranks(world)
        differences_are_named(world)
        for level, reduce in (("O0", "half"), ("O1", "half"), ("O2", "half"), ("O2", "float32")):
            weights_stay_equal(world, level, reduce)
            for is_flat in (False, True):
                an_overflow_on_one_rank_is_everyones(world, level, reduce, is_flat)
        float32_is_what_travels(world)


def sums_and_gathers(world: World) -> None:
    own = torch.tensor([1, world.rank])
    assert world.all_reduce_sum(own).tolist() == [world.world_size, sum(range(world.world_size))]
    assert own.tolist() == [1, world.rank], "the argument is not changed"
    gathered = world.gather_object({"rank": world.rank})
    assert gathered == ([{"rank": rank} for rank in range(world.world_size)] if world.is_rank0 else None)
    seeds: list[Any] = [None] * world.world_size
    torch.manual_seed(3)
    ranks.seed_per_rank(world)
    torch.distributed.all_gather_object(seeds, torch.rand(4).tolist())
    assert len({tuple(seed) for seed in seeds}) == world.world_size


def a_meter_reads_all_ranks(world: World) -> None:
    meter = Meter(torch.device("cpu"), world)
    logits = torch.eye(6)[[0, 1]]
    meter.add(torch.tensor(1.0 + world.rank), logits, torch.tensor([0, 1 if world.is_rank0 else 5]))
    read = meter.read()
    assert read.last_loss == read.loss == 1.5 and read.metrics["acc1"] == 75


def differences_are_named(world: World) -> None:
    world.assert_same({"samples": 5})
    try:
        world.assert_same({"samples": 5 + world.rank})
    except UserError as error:
        assert "rank 1 on" in str(error) and "has samples 6" in str(error)
    else:
        raise AssertionError("ranks with other samples continued")


def three_ranks_average_as_one_rank_trains(size: int) -> None:
    """DDP's averages and those of our own flat buffers: the same training, and that of one rank with the whole batch."""
    with world_of(size) as world:
        for level, reduce in (("O0", "half"), ("O1", "half"), ("O2", "half"), ("O2", "float32")):
            by_ddp, flat = (small_precision(world, level, reduce, is_flat) for is_flat in (False, True))
            alone = small_precision(World(), level, reduce)
            for number in range(3):
                for precision in (by_ddp, flat):
                    step(precision, world.rank + number * size)
                steps_of_all(alone, range(number * size, number * size + size))
            tolerance = 1e-6 if level == "O0" else 2e-3
            assert torch.allclose(flat_weights(flat), flat_weights(by_ddp), rtol=0, atol=tolerance), (
                level,
                reduce,
            )
            assert torch.allclose(flat_weights(flat), flat_weights(alone), rtol=0, atol=5 * tolerance), (
                level,
                reduce,
            )
            after = everyones(flat_weights(flat), world)
            assert all(torch.equal(after[0], other) for other in after), (level, reduce)
            gradients_stay_where_they_are(flat, world)
            ranks_keep_their_own_gradients_inside_no_sync(flat, world)
        ranks_of_cards_that_saturate_skip_together(world)
        running_statistics_are_rank_0s(world)
        parts_of_a_batch_are_summed_over_ranks_once(world)


def running_statistics_are_rank_0s(world: World) -> None:
    """Behind each step, so that every rank evaluates what rank 0 saves; weights and their average too are the same."""
    for is_flat in (False, True):
        precision = precision_of(batch_normed(), world, "O2", "half", is_flat, ema=0.5)
        mine = batch_normed()
        for number in range(2):
            images, _ = small_batch(world.rank + number)
            step(precision, world.rank + number)
            mine(images)
            own = torch.cat([buffer.flatten().float() for buffer in precision.model.buffers()])
            after = everyones(own, world)
            assert all(torch.equal(after[0], other) for other in after), is_flat
            weights = everyones(flat_weights(precision), world)
            assert all(torch.equal(weights[0], other) for other in weights), is_flat
        assert precision.average is not None
        averages = torch.cat([each.flatten() for each in precision.average.tensors().values()])
        assert torch.equal(*everyones(averages, world)[:2])
        variance = precision.model.get_buffer("1.running_var")
        if world.is_rank0:
            assert torch.allclose(variance, mine.get_buffer("1.running_var"), atol=0.02)


def parts_of_a_batch_are_summed_over_ranks_once(world: World) -> None:
    """The step of a batch in parts is that of the whole batch, with one sum of each gradient."""
    for is_flat in (False, True):
        whole, parts = (
            TrainState(
                small_precision(world, "O0", "half", is_flat), Meter(CPU.torch_device, world), accumulate
            )
            for accumulate in (1, 3)
        )
        for number in range(2):
            for state in (whole, parts):
                state.lr = 0.05
                state.train_step(*small_batch(world.rank + number))
        assert torch.allclose(flat_weights(parts.precision), flat_weights(whole.precision), atol=1e-6), (
            is_flat
        )
        after = everyones(flat_weights(parts.precision), world)
        assert all(torch.equal(after[0], other) for other in after), is_flat


def batch_normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def steps_of_all(precision: Precision, ranks_: range) -> None:
    """One step on the batches of all these ranks."""
    batches = [small_batch(rank) for rank in ranks_]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    precision.backward(functional.cross_entropy(precision.forward(images.to(precision.dtype)), labels))
    precision.learning_rate = 0.05
    precision.step()


def gradients_stay_where_they_are(precision: Precision, world: World) -> None:
    where = []
    for number in range(2):
        images, labels = small_batch(world.rank + number)
        precision.backward(functional.cross_entropy(precision.forward(images.to(precision.dtype)), labels))
        where.append([param.grad.data_ptr() for param in precision._params if param.grad is not None])
    assert where[0] == where[1] and len(where[0]) == len(precision._params)


def ranks_keep_their_own_gradients_inside_no_sync(precision: Precision, world: World) -> None:
    images, labels = small_batch(world.rank)
    with precision.no_sync():
        precision.backward(functional.cross_entropy(precision.forward(images.to(precision.dtype)), labels))
    own = torch.cat([param.grad.flatten() for param in precision._params if param.grad is not None])
    assert not torch.equal(*everyones(own, world)[:2])
    precision.backward(functional.cross_entropy(precision.forward(images.to(precision.dtype)), labels))
    own = torch.cat([param.grad.flatten() for param in precision._params if param.grad is not None])
    assert torch.equal(*everyones(own, world)[:2])


class SaturatingCpu(Cpu):
    """A device on which an overflow is the largest number: its ranks do not see each other's in the averaged gradients."""

    saturates = True


def ranks_of_cards_that_saturate_skip_together(world: World) -> None:
    for is_flat in (False, True):
        precision = small_precision(world, "O2", "half", is_flat, SaturatingCpu())
        step(precision, world.rank)
        before = flat_weights(precision)
        check, scale = torch._amp_foreach_non_finite_check_and_unscale_, precision.scale

        def by_the_cards_flag(gradients: Any, found_inf: Tensor, inverse: Tensor) -> None:
            found_inf.fill_(float(world.rank == 1))

        torch._amp_foreach_non_finite_check_and_unscale_ = by_the_cards_flag  # type: ignore[assignment]
        step(precision, world.rank)
        torch._amp_foreach_non_finite_check_and_unscale_ = check  # type: ignore[assignment]
        assert torch.equal(flat_weights(precision), before), "every rank skips"
        assert (precision.scale, int(precision.skipped)) == (scale / 2, 1), world.rank


def small_precision(
    world: World, level: Any, reduce: Any, is_flat: bool = False, device: Any = CPU
) -> Precision:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)
    )
    return precision_of(net, world, level, reduce, is_flat, device)


def precision_of(
    net: nn.Module,
    world: World,
    level: Any,
    reduce: Any,
    is_flat: bool = False,
    device: Any = CPU,
    **options: Any,
) -> Precision:
    wrap = partial(ranks.wrap_ddp, world=world, reduce=reduce)
    return Precision(
        net, SGD, level=level, device=device, loss_scale="dynamic", over_ranks=world.add_up,
        sync_statistics=world.copy_rank0s if world.world_size > 1 else None, **options,
        replicate=None if is_flat else wrap, reduce=partial(FlatGradients, world=world, reduce=reduce) if is_flat else None,
    )  # fmt: skip


def small_batch(rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1 + rank)
    images = torch.randn(8, 3, 12, 12, generator=generator)
    return images, torch.randint(0, 10, (8,), generator=generator)


def step(precision: Precision, rank: int, factor: float = 1.0) -> None:
    images, labels = small_batch(rank)
    images = images.to(precision.dtype)
    precision.backward(functional.cross_entropy(precision.forward(images), labels) * factor)
    precision.learning_rate = 0.05
    precision.step()


def everyones(tensor: Tensor, world: World) -> list[Tensor]:
    tensors = [torch.empty_like(tensor) for _ in range(world.world_size)]
    torch.distributed.all_gather(tensors, tensor)
    return tensors


def flat_weights(precision: Precision) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in precision.state_dict().values()])


def weights_stay_equal(world: World, level: str, reduce: str) -> None:
    precision = small_precision(world, level, reduce)
    before = flat_weights(precision)
    assert not any("module." in key for key in precision.state_dict())
    for _ in range(3):
        step(precision, world.rank)
    after = everyones(flat_weights(precision), world)
    assert not torch.equal(before, after[0])
    assert all(torch.equal(after[0], other) for other in after), (level, reduce)


def an_overflow_on_one_rank_is_everyones(world: World, level: str, reduce: str, is_flat: bool) -> None:
    if level == "O0":  # nothing is scaled, so nothing is skipped
        return
    precision = small_precision(world, level, reduce, is_flat)
    step(precision, world.rank)
    before, scale = flat_weights(precision), precision.scale
    step(precision, world.rank, torch.inf if world.rank == 1 else 1.0)
    assert torch.equal(flat_weights(precision), before), (level, reduce, "the step was skipped")
    assert (precision.scale, int(precision.skipped)) == (scale / 2, 1), (level, reduce, world.rank)
    step(precision, world.rank)
    after = everyones(flat_weights(precision), world)
    assert all(torch.equal(after[0], other) for other in after) and not torch.equal(after[0], before)


def float32_is_what_travels(world: World) -> None:
    """257.5, the sum of 256 and 1.5, is not a bfloat16; its half is rounded only once, to 129."""
    net = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    parallel = ranks.wrap_ddp(net, world, "float32")
    travelled, all_reduce = [], torch.distributed.all_reduce

    def watched(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
        travelled.append(tensor.dtype)
        return all_reduce(tensor, *arguments, **options)

    torch.distributed.all_reduce = watched
    parallel(torch.full((1, 1), 256.0 if world.is_rank0 else 1.5, dtype=torch.bfloat16)).sum().backward()
    torch.distributed.all_reduce = all_reduce
    assert travelled == [torch.float32]
    assert net.weight.grad is not None and net.weight.grad.dtype is torch.bfloat16
    assert net.weight.grad.item() == 129


# ---------------------------------------------------------------- complete runs


def run_stop_resume(whole: Recipe, stopped: Recipe, at: int) -> None:
    """Run without a stop; then a run that SIGTERM to its second rank stops in step `at`, and its resume."""
    with one_group_for_all(whole.distributed.nproc) as world:
        trainer.train(whole)
        add, left = Meter.add, [at if world.rank == 1 else 0]

        def struck(meter: Meter, *figures: Any) -> None:
            add(meter, *figures)
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGTERM)

        Meter.add = struck  # type: ignore[method-assign]
        try:
            trainer.train(stopped)
        except StoppedBySignal as told:
            assert told.number == signal.SIGTERM and f"step {at + 1}: saved" in str(told), told
        else:
            raise AssertionError("no rank stopped")
        Meter.add = add  # type: ignore[method-assign]
        torch.manual_seed(1000)  # whatever happens between the two must not matter
        trainer.train(stopped, "auto")


def evaluate_each(recipes: list[Recipe], nproc: int, checkpoint: str) -> None:
    with one_group_for_all(nproc):
        for recipe in recipes:
            trainer.evaluate_only(recipe, checkpoint)


@contextmanager
def one_group_for_all(nproc: int) -> Any:
    """Several runs of the narrow AlexNet in one start of the processes: all use this process group."""
    world = ranks.from_environment(nproc)
    with ranks.process_group(world, CPU):
        before = ranks.process_group, MODELS["alexnet"]
        ranks.process_group = lambda *_: nullcontext()  # type: ignore[assignment]
        MODELS["alexnet"] = NARROW
        try:
            yield world
        finally:  # a single rank is the process of the tests
            ranks.process_group, MODELS["alexnet"] = before  # type: ignore[misc]


def train_each(recipes: list[Recipe], nproc: int, resume: str | None = None) -> None:
    with one_group_for_all(nproc):
        for recipe in recipes:
            trainer.train(recipe, resume)


# ---------------------------------------------------------------- profiles


def profiles_with_slow_sums(train: str, out: str) -> None:
    """Profile a run with slow sums of gradients, on ranks with unequal shares of the cores."""
    ranks.bind_rank = lambda local_rank, ranks: 1 + local_rank  # type: ignore[assignment]
    average = ranks.average_in_float32

    def late_average(size: int, bucket: Any) -> Any:
        time.sleep(0.3)
        return average(size, bucket)

    ranks.average_in_float32 = late_average  # type: ignore[assignment]
    MODELS["alexnet"] = NARROW
    recipe = validate(
        {
            "run": {"name": "slow-sums", "out": out, "device": "cpu"},
            "data": {"train": train, "size": 64, "global_batch_size": 16, "on_error": "skip"},
            "precision": {"level": "O0", "reduce": "float32"},
            "distributed": {"nproc": 2},
        }
    )
    found = throughput.profile(recipe, 1)
    text = found.verdict.text
    assert found.verdict.binding == "all-reduce", text
    assert "precision.reduce" in text and "gradients" in text
    assert [point.threads for point in found.stages.decode.scaling] == [1, 2]
    assert (found.stages.cores, found.machine["ranks"]) == (3, 2)
    assert "JPEG, 500 px" in {mode.name for mode in found.stages.modes}
