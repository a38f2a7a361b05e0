"""The Loader as its users meet it: batches, epochs, resumes, arguments, and its end."""

from __future__ import annotations

import copy
import gc
import inspect
import logging
import os
import pickle
import shutil
import signal
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast import Balanced, Beton, ImageNet, Loader, LoaderOptions
from alexnet_fast.augment.mix import Mix
from alexnet_fast.augment.solarize import Solarize
from alexnet_fast.beton.reader import BetonError
from alexnet_fast.decode.decoder import Decoder
from alexnet_fast.errors import UserError
from alexnet_fast.loader.bad_samples import OnError
from alexnet_fast.loader.sampler import epoch_permutation
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import OVERWRITERS, Entry, jpeg, loaded, picture, write
from components import ROOT

COUNT = 50


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty small images of several sizes; a sample's label is its index."""
    entries = [encode_jpeg(picture(80 + k % 7 * 8, 60 + k % 5 * 8, k % 10), Encoding()) for k in range(COUNT)]
    return write(tmp_path_factory.mktemp("loader") / "a.beton", entries)


def labels_of(loader: Loader) -> list[int]:
    return [int(label) for batch in loader for label in batch.labels]


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode-")]


def join_decoding_threads() -> None:
    """They were signalled to end, and do."""
    for thread in decoding_threads():
        thread.join(10)
        assert not thread.is_alive()


def test_a_batch_is_images_and_labels_as_torch_tensors(beton: Path) -> None:
    with Loader(beton, 8, train=True, size=96) as loader:
        images, labels = next(iter(loader))
        assert (
            isinstance(images, torch.Tensor)
            and images.dtype == torch.uint8
            and images.shape == (8, 3, 96, 96)
        )
        assert isinstance(labels, torch.Tensor) and labels.dtype == torch.int64 and labels.shape == (8,)
        assert images.is_contiguous() and images.device.type == "cpu" and not images.is_pinned()


@pytest.mark.parametrize(
    "options", [{"train": True}, {"train": False}, {"train": True, "indices": [7, 3, 44, 7, 7]}]
)
def test_a_batch_says_which_samples_it_holds(beton: Path, options: dict[str, Any]) -> None:
    """Their places in the file, which here are their labels; of a rank's own share, and from wherever the epoch is resumed."""
    for rank in range(2):
        with Loader(beton, 2, rank=rank, world_size=2, drop_last=False, size=32, **options) as loader:
            loader.set_epoch(3, 1)
            batches = list(loader)
            for batch in batches:
                assert batch.indices.dtype == torch.int64 and batch.indices.tolist() == batch.labels.tolist()
            assert len(batches) == len(loader) - 1


def test_the_indices_of_a_batch_find_its_samples_in_the_file(tmp_path: Path) -> None:
    labels = [10 * k for k in range(12)]
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48, k)) for k in range(12)], labels)
    with Loader(path, 4, train=True, size=32) as loader:
        for batch in loader:
            assert loader.beton.labels[batch.indices.numpy()].tolist() == batch.labels.tolist()


def test_it_tells_what_it_holds(beton: Path) -> None:
    with Loader(beton, 8, train=True) as loader:
        assert (loader.num_samples, loader.num_classes, loader.batch_size, len(loader)) == (
            COUNT,
            COUNT,
            8,
            6,
        )
        assert isinstance(loader.beton, Beton) and loader.dropped == 2
    with Loader(beton, 8, train=False) as loader:
        assert (len(loader), loader.dropped) == (7, 0)


def test_the_last_batch_of_an_evaluation_is_as_long_as_the_rest(beton: Path) -> None:
    with Loader(beton, 8, train=False) as loader:
        batches = list(loader)
        assert [len(batch.labels) for batch in batches] == [8] * 6 + [2]
        assert [len(batch.images) for batch in batches] == [8] * 6 + [2]
        assert [int(label) for batch in batches for label in batch.labels] == list(range(COUNT))


def test_training_is_shuffled_and_drops_the_rest_unless_told_otherwise(beton: Path) -> None:
    with Loader(beton, 8, train=True) as loader:
        first, second = labels_of(loader), labels_of(loader)
        assert len(set(first)) == len(first) == 48 and first != sorted(first) and first != second
    with Loader(beton, 8, train=True, shuffle=False, drop_last=False) as loader:
        assert labels_of(loader) == labels_of(loader) == list(range(COUNT))
    with Loader(beton, 8, train=False, shuffle=True, drop_last=True) as loader:
        assert len(set(labels_of(loader))) == 48


def test_epochs_follow_on_from_each_other(beton: Path) -> None:
    with Loader(beton, 10, train=True) as loader:
        epochs = []
        for epoch in range(3):
            assert loader.epoch == epoch
            epochs.append(labels_of(loader))
    for epoch, labels in enumerate(epochs):
        with Loader(beton, 10, train=True) as loader:
            loader.set_epoch(epoch)
            assert labels_of(loader) == labels


def test_a_resume_goes_on_at_the_very_batch(beton: Path) -> None:
    with Loader(beton, 10, train=True, seed=9) as loader:
        straight = [[(batch.images.clone(), batch.labels.clone()) for batch in loader] for _ in range(2)]
    with Loader(beton, 10, train=True, seed=9) as loader:
        loader.set_epoch(0, 3)
        rest = [[(batch.images, batch.labels) for batch in loader] for _ in range(2)]
    assert [len(epoch) for epoch in rest] == [2, 5]
    for (images, labels), (expected_images, expected_labels) in zip(
        rest[0] + rest[1], straight[0][3:] + straight[1]
    ):
        assert torch.equal(labels, expected_labels) and torch.equal(images, expected_images)


def test_a_resume_at_the_end_of_an_epoch_has_nothing_left_of_it(beton: Path) -> None:
    with Loader(beton, 10, train=True) as loader:
        loader.set_epoch(4, len(loader))
        assert labels_of(loader) == []
        assert loader.epoch == 5
        assert len(labels_of(loader)) == COUNT


def test_breaking_out_of_an_epoch_begins_the_next(beton: Path) -> None:
    with Loader(beton, 10, train=True) as whole, Loader(beton, 10, train=True) as broken:
        labels_of(whole)
        for _ in broken:
            break
        assert broken.epoch == 1
        assert labels_of(broken) == labels_of(whole)


def test_an_epoch_set_while_an_iteration_is_open_counts(beton: Path) -> None:
    """The old iterator is closed only after the new one began; it must not move the cursor."""
    with Loader(beton, 10, train=True) as loader:
        iterator = iter(loader)
        next(iterator)
        loader.set_epoch(3)
        iterator = iter(loader)
        found = [int(label) for batch in iterator for label in batch.labels]
        assert loader.epoch == 4
        loader.set_epoch(3)
        assert found == labels_of(loader)


def test_an_iteration_that_another_one_overtook_is_an_error_and_not_other_batches(beton: Path) -> None:
    with Loader(beton, 10, train=True) as loader:
        first = iter(loader)
        next(first)
        second = iter(loader)
        with pytest.raises(RuntimeError, match="another of the same loader started"):
            next(first)
        assert len(list(second)) == 5


def test_an_exception_in_the_loop_leaves_the_loader_usable(beton: Path) -> None:
    with Loader(beton, 10, train=True) as loader:
        with pytest.raises(ZeroDivisionError):
            for _ in loader:
                raise ZeroDivisionError
        loader.set_epoch(0)
        assert sorted(labels_of(loader)) == list(range(COUNT))


def test_waiting_is_counted_and_never_goes_back(beton: Path) -> None:
    with Loader(beton, 10, train=True) as loader:
        assert loader.wait_s == 0.0
        waits = [loader.wait_s for _ in range(3) for _ in loader]
        assert waits == sorted(waits) and waits[0] > 0


def test_many_epochs_of_one_batch(beton: Path) -> None:
    with Loader(beton, COUNT, train=True, size=32, batches_ahead=1, threads=3) as loader:
        for _ in range(20):
            assert sorted(labels_of(loader)) == list(range(COUNT))


def test_a_set_smaller_than_a_batch_evaluates(beton: Path) -> None:
    with Loader(beton, 1000, train=False, size=32) as loader:
        assert len(loader) == 1 and labels_of(loader) == list(range(COUNT))


def test_a_rank_without_a_share_has_no_batches(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 2)
    found = []
    for rank in range(4):
        with Loader(path, 4, train=False, size=32, rank=rank, world_size=4) as loader:
            assert len(loader) == (rank < 2)
            found += labels_of(loader) + labels_of(loader)
    assert found == [0, 0, 1, 1]


def test_sizes_and_scratch_grow_with_the_images(tmp_path: Path) -> None:
    """The threads start with room for images of 512 px and payloads of 64 kB."""
    sizes = [(64, 48), (700, 20), (20, 900), (1300, 1000), (64, 48), (2500, 300)]
    path = write(tmp_path / "a.beton", [encode_jpeg(picture(*size), Encoding(quality=98)) for size in sizes])
    together = loaded(path, train=True, size=64)
    for index in range(len(sizes)):
        with Loader(path, 1, train=True, size=64, shuffle=False) as loader:
            loader.set_epoch(0, index)
            assert np.array_equal(next(iter(loader)).images[0].numpy(), together[index])


def test_memory_does_not_grow_over_many_epochs(beton: Path, run_cli: Any) -> None:
    """In a process of its own, whose memory nobody else uses."""
    program = f"""
from pathlib import Path
from bench.memory_growth import after_each_epoch
own = after_each_epoch(Path({str(beton)!r}), epochs=300, batch_size=10, threads=2, size=64)
print(max(own[200:]) - max(own[50:100]))
"""
    run = run_cli("-c", program, env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tools'}"})
    assert run.code == 0, run.stderr
    assert int(run.stdout) < 2_000_000


def test_a_file_that_was_shortened_is_told_before_the_next_epoch(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 8)
    with Loader(path, 4, train=True, size=32) as loader:
        os.truncate(path, path.stat().st_size - 100)
        with pytest.raises(BetonError, match="was shortened while it was open"):
            next(iter(loader))


def test_a_file_that_is_shortened_within_an_epoch_is_an_error_that_names_it(tmp_path: Path) -> None:
    """And no SIGBUS, which would end the process without a word."""
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 40)
    with Loader(path, 4, train=True, size=32, batches_ahead=2) as loader:
        batches = iter(loader)
        next(batches)
        deadline = time.monotonic() + 60
        while any(not each.doing.startswith("waiting: 2 batches are ready") for each in loader.thread_stats):
            assert time.monotonic() < deadline, [each.doing for each in loader.thread_stats]
            time.sleep(0.001)  # nobody may be reading at this moment
        os.truncate(path, 5000)
        with pytest.raises(BetonError, match=f"{path} was shortened while it was open, from .* to 5000"):
            list(batches)


@pytest.fixture
def two_betons(beton: Path, tmp_path: Path) -> tuple[Path, Path]:
    """One to be overwritten, and another of the same length, whose pixels have other labels."""
    entries = [encode_jpeg(picture(80 + k % 7 * 8, 60 + k % 5 * 8, k % 10), Encoding()) for k in range(COUNT)]
    other = write(tmp_path / "other.beton", [*entries[1:], entries[0]])
    path = Path(shutil.copy(beton, tmp_path / "a.beton"))
    assert path.stat().st_size == other.stat().st_size
    return path, other


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("how", OVERWRITERS)
def test_no_batch_is_handed_out_of_a_file_that_is_written_over_while_it_is_decoded(
    beton: Path,
    two_betons: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    on_error: OnError,
) -> None:
    """After it was checked and before its bytes are read; a page that is gone does not end the process."""
    path, other = two_betons
    options: dict[str, Any] = {"train": True, "size": 48, "seed": 3}
    expected = [loaded(beton, epoch=epoch, **options) for epoch in range(4)]
    decode, chunks = Decoder.decode, count()

    def overwrite_and_decode(*arguments: Any) -> Any:
        if next(chunks) == 8:
            OVERWRITERS[how](path, other)
        return decode(*arguments)

    monkeypatch.setattr(Decoder, "decode", overwrite_and_decode)
    with Loader(path, 10, threads=2, on_error=on_error, **options) as loader:
        for _ in range(2):  # it stays so
            with pytest.raises(BetonError, match=f"^{path} was (shortened|written over)") as caught:
                for epoch in range(4):
                    for images, labels in loader:
                        for image, label in zip(images.numpy(), labels.tolist()):
                            assert np.array_equal(image, expected[epoch][label])
            assert isinstance(caught.value, UserError)
        assert loader.skipped == []


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_file_that_is_replaced_is_read_on_by_the_loader_that_has_it_open(
    beton: Path, two_betons: tuple[Path, Path], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Pixels and labels stay those of one file; a loader that is opened then has the other's."""
    path, other = two_betons
    options: dict[str, Any] = {"train": True, "size": 48, "seed": 3}
    expected = [loaded(beton, epoch=epoch, **options) for epoch in range(4)]
    with Loader(path, 10, threads=2, **options) as loader, caplog.at_level(logging.WARNING, "alexnet_fast"):
        for epoch in range(4):
            for step, (images, labels) in enumerate(loader):
                if (epoch, step) == (1, 2):
                    path.unlink() if how == "deleted" else os.replace(other, path)
                for image, label in zip(images.numpy(), labels.tolist()):
                    assert np.array_equal(image, expected[epoch][label])
    assert [f"{path} was {how}" in record.getMessage() for record in caplog.records] == [True]
    if how == "replaced":
        assert not np.array_equal(loaded(path, **options)[3], expected[0][3])


def test_the_orders_that_are_made_ahead_are_those_of_their_epochs(beton: Path) -> None:
    with Loader(beton, 10, train=True, size=16) as loader:
        for epoch in (0, 1, 2, 7, 8, 3):
            loader.set_epoch(epoch)
            assert labels_of(loader) == epoch_permutation(COUNT, 0, epoch).tolist()


def test_a_forked_child_is_told_that_the_threads_are_its_parents(beton: Path) -> None:
    with Loader(beton, 10, train=True, size=16) as loader:
        iterator = iter(loader)
        next(iterator)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            try:
                list(iterator)
            except UserError as error:
                os._exit(0 if "open one in each process" in str(error) else 2)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(list(iterator)) == 4


# -- augmentations


@pytest.mark.parametrize("train", [True, False])
def test_augmentations_are_done_to_the_pixels_that_are_there_without_them(beton: Path, train: bool) -> None:
    options: dict[str, Any] = {"train": train, "size": 48, "threads": 2}
    plain, solarized = loaded(beton, **options), loaded(beton, augmentations=[Solarize(100, p=1)], **options)
    for label, image in plain.items():
        assert np.array_equal(solarized[label], np.where(image >= 100, 255 - image, image))


def test_a_batch_with_a_broken_sample_is_augmented_too(tmp_path: Path) -> None:
    good = jpeg(picture(64, 48))
    path = write(tmp_path / "a.beton", [good, Entry(b"no image", 64, 48), good, good])
    options: dict[str, Any] = {"size": 48, "on_error": "skip"}
    plain, inverted = loaded(path, **options), loaded(path, augmentations=[Solarize(0, p=1)], **options)
    assert sorted(plain) == sorted(inverted) == [0, 2, 3]
    assert all(np.array_equal(inverted[label], 255 - image) for label, image in plain.items())


def test_the_list_of_augmentations_is_copied_and_pickled(beton: Path) -> None:
    given = [Solarize(100, p=0.5)]
    with Loader(beton, 10, train=True, size=32, augmentations=given) as loader:
        given.clear()
        with pickle.loads(pickle.dumps(loader)) as other, Loader(beton, 10, train=True, size=32) as plain:
            assert epoch_of(other) == (augmented := epoch_of(loader)) != epoch_of(plain)
            assert len(augmented) == 5


def test_an_augmentation_that_fails_is_an_error_of_the_iteration(beton: Path) -> None:
    class Failing(Solarize):
        def apply(self, *_: Any) -> None:
            raise ZeroDivisionError("of an operation")

    with (
        Loader(beton, 10, train=True, augmentations=[Failing()]) as loader,
        pytest.raises(RuntimeError, match="a decoding thread failed: ZeroDivisionError"),
    ):
        next(iter(loader))


# -- what is set later


SETTABLE = {"batch_size", "size", "indices"}


@pytest.mark.parametrize(
    "name", [name for name in inspect.signature(Loader).parameters if name not in SETTABLE]
)
def test_an_argument_that_is_set_later_is_an_error_that_says_what_to_do(beton: Path, name: str) -> None:
    with Loader(beton, 8, train=True, size=32) as loader:
        message = f"Loader.{name} = 96 cannot be set: .* open a new Loader with {name}=96"
        with pytest.raises(AttributeError, match=message) as caught:
            setattr(loader, name, 96)
        assert isinstance(caught.value, UserError)
        assert next(iter(loader)).images.shape == (8, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sise", "there is no such attribute; did you mean size?"),
        ("on_errror", "did you mean on_error?"),
        ("qqq", "there is no such attribute$"),
        ("epoch", "call set_epoch with it"),
        ("num_samples", "it only reports what was opened"),
        ("wait_s", "it only reports what was opened"),
        ("beton", "it only reports what was opened"),
        ("set_epoch", "it only reports what was opened"),
        ("dataset", "it only reports what was opened"),
        ("num_workers", "it only reports what was opened"),
    ],
)
def test_any_other_attribute_that_nobody_reads_is_an_error(beton: Path, name: str, said: str) -> None:
    with Loader(beton, 8, train=True) as loader, pytest.raises(AttributeError, match=said):
        setattr(loader, name, 96)


def test_the_watch_may_be_set_at_any_time(beton: Path) -> None:
    told: list[object] = []
    with Loader(beton, 8, train=True, size=32) as loader:
        loader.watch = lambda *event: told.append(event)
        list(loader)
        with pytest.raises(
            UserError, match="^watch = 5 is out of range, expected something to call, or None"
        ):
            loader.watch = 5  # type: ignore[assignment]
        loader.watch = None
    assert told


class Named(Loader):
    """A class that a user has derived: its own arguments, attributes, and one name that is also an argument of the Loader's."""

    indices: list[int] | None = None

    def __init__(self, name: str, path: Path) -> None:
        self.early = name.upper()
        super().__init__(path, 5, train=True, size=32, seed=4, indices=[3, 1, 4, 1, 5])
        self.name, self._hidden = name, 0
        self.indices = [3, 1, 4, 1, 5]


def test_a_derived_class_may_have_attributes_of_its_own_and_no_others_of_the_loaders(beton: Path) -> None:
    with Named("a", beton) as loader:
        loader.name, loader.early, loader._hidden = "b", "B", 1
        assert (loader.name, loader.early, loader._hidden, loader.indices) == ("b", "B", 1, [3, 1, 4, 1, 5])
        with pytest.raises(AttributeError, match="open a new Named with seed=96"):
            loader.seed = 96


# -- pickled and copied


def epoch_of(loader: Loader) -> list[tuple[list[int], bytes]]:
    return [(batch.labels.tolist(), batch.images.numpy().tobytes()) for batch in loader]


@pytest.mark.parametrize(
    "again",
    [lambda each: pickle.loads(pickle.dumps(each)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_a_pickled_or_copied_loader_goes_on_with_the_epoch_that_would_be_next(
    beton: Path, again: Any
) -> None:
    indices = [*range(20), 7, 7, 7]
    options: dict[str, Any] = {
        "seed": 9,
        "size": 32,
        "threads": 1,
        "flip": 0.3,
        "scale": [0.2, 0.9],
        "indices": indices,
    }
    with Loader(beton, 4, train=True, drop_last=False, **options) as loader:
        indices.clear()  # the caller's, to use as it likes
        epoch_of(loader)
        with again(loader) as other:
            assert other.epoch == 1 and other.threads == 1
            begun = iter(other)
            next(begun)
            straight = epoch_of(loader)
            other.set_epoch(1)
            assert len(straight) == 6 and epoch_of(other) == straight
        assert len(epoch_of(loader)) == 6


def test_every_argument_is_pickled(beton: Path) -> None:
    with Loader(beton, 4, train=True) as loader:
        arguments = loader.__getstate__()["arguments"]
        assert {*arguments, *vars(arguments["options"])} == inspect.signature(Loader).parameters.keys()


def test_a_derived_class_is_pickled_with_what_it_added(beton: Path) -> None:
    with Named("a", beton) as loader:
        loader.name = "b"
        with pickle.loads(pickle.dumps(loader)) as other:
            assert isinstance(other, Named)
            assert (other.name, other.early, other.indices) == ("b", "A", [3, 1, 4, 1, 5])
            assert epoch_of(other) == epoch_of(loader)


def test_a_loader_of_a_relative_path_is_pickled_with_the_file_that_it_has_open(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(beton.parent)
    with Loader(beton.name, 10, train=False, size=32) as loader:
        monkeypatch.chdir(tmp_path)
        with pickle.loads(pickle.dumps(loader)) as other:
            assert epoch_of(other) == epoch_of(loader)


def test_a_pickled_loader_whose_file_is_gone_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))])
    with Loader(path, 1, train=True, size=32) as loader:
        pickled = pickle.dumps(loader)
    path.unlink()
    with pytest.raises(BetonError, match="a.beton does not exist"):
        pickle.loads(pickled)


SPAWN = """
import multiprocessing, sys
from alexnet_fast import Loader

def consume(loader):
    with loader:
        print(loader.epoch, [label for _, labels in loader for label in labels.tolist()])

if __name__ == "__main__":
    with Loader(sys.argv[1], 10, train=True, size=16, threads=1) as loader:
        loader.set_epoch(3)
        child = multiprocessing.get_context(sys.argv[2]).Process(target=consume, args=(loader,))
        child.start()
        child.join()
        consume(loader)
        sys.exit(child.exitcode)
"""


def test_a_spawned_process_is_given_a_loader(beton: Path, tmp_path: Path, run_cli: Any) -> None:
    program = tmp_path / "spawn.py"
    program.write_text(SPAWN)
    run = run_cli(program, beton, "spawn")
    assert (run.code, run.stderr) == (0, "")
    childs, own = run.stdout.splitlines()
    assert childs == own and own.startswith("3 [")


# -- its end


def test_no_thread_is_left_after_close(beton: Path) -> None:
    loader = Loader(beton, 8, train=True, threads=3)
    next(iter(loader))
    assert len(decoding_threads()) == 3
    loader.close()
    loader.close()
    assert not decoding_threads()


def test_no_thread_is_left_after_the_last_reference(beton: Path) -> None:
    loader = Loader(beton, 8, train=True, threads=2)
    iterator = iter(loader)
    next(iterator)
    del loader, iterator
    gc.collect()
    join_decoding_threads()


class Cyclic(Loader):
    """May hold itself."""

    itself: Loader


def test_a_loader_that_the_garbage_collector_finds_ends_its_threads(beton: Path) -> None:
    """In a cycle, dropped while its threads allocate: the collector may run in any of them, under any lock."""
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(20):
            loader: Any = Cyclic(beton, 4, train=True, size=16, threads=3, batches_ahead=2)
            loader.itself = loader
            next(iter(loader))
            loader = None
            threading.enumerate()  # allocates under a lock that threads need to end
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    join_decoding_threads()


def test_no_thread_is_left_after_an_exception(beton: Path) -> None:
    with pytest.raises(ZeroDivisionError), Loader(beton, 8, train=True, threads=2) as loader:
        for _ in loader:
            raise ZeroDivisionError
    assert not decoding_threads()


def test_whatever_way_a_loader_is_left_nothing_of_it_stays_behind(beton: Path, run_cli: Any) -> None:
    """Closed, dropped, in a cycle, under a held batch, by Ctrl-C: the short form of the attack, in a process of its own."""
    attack = ("tests/stress/loader_leaks.py", "--beton", beton, "--tries", 9)
    run = run_cli(*attack, env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tools'}"}, timeout_s=240)
    assert run.code == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "54 loaders opened and left in 6 ways: 54 left nothing behind"


def test_a_loader_lets_its_free_memory_go_when_it_is_closed_under_a_held_batch(beton: Path) -> None:
    loader = Loader(beton, 5, train=True, size=32, batches_ahead=3)
    held = list(loader)[0]  # noqa: RUF015 (the whole epoch, and one batch of it kept)
    assert len(loader._pipeline.pool._free) > 3
    loader.close()
    assert len(loader._pipeline.pool._free) == 0
    pixels = held.images.clone()
    del loader, held
    assert int(pixels.sum()) > 0


def test_no_thread_is_begun_by_a_loader_that_is_refused(beton: Path) -> None:
    with pytest.raises(UserError):
        Loader(beton, 1000, train=True)
    assert not decoding_threads()


def test_a_process_ends_with_a_loader_open(beton: Path, run_cli: Any) -> None:
    run = run_cli(
        "-c",
        f"from alexnet_fast import Loader; it = iter(Loader({str(beton)!r}, 8, train=True)); next(it)",
        timeout_s=240,
    )
    assert (run.code, run.stderr) == (0, "")


def test_a_closed_loader_says_so(beton: Path) -> None:
    loader = Loader(beton, 8, train=True)
    iterator = iter(loader)
    next(iterator)
    loader.close()
    with pytest.raises(RuntimeError, match="the loader is closed"):
        list(iterator)
    with pytest.raises(RuntimeError, match="the loader is closed"):
        next(iter(loader))


# -- what it refuses


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch_size": 0}, "batch_size = 0 is out of range, expected at least 1"),
        ({"batch_size": -3}, "batch_size = -3"),
        ({"size": 0}, "size = 0 is out of range, expected 1 to 4096 pixels"),
        ({"size": 5000}, "size = 5000"),
        ({"seed": -1}, "seed = -1 is out of range"),
        ({"seed": 2**64}, "seed = 18446744073709551616 is out of range"),
        ({"threads": 0}, "threads = 0"),
        ({"rank": 2, "world_size": 2}, "rank = 2 is out of range, expected 0 to 1, since world_size is 2"),
        ({"rank": -1}, "rank = -1"),
        ({"world_size": 0}, "world_size = 0 is out of range, expected at least 1"),
        ({"rank": 0}, "rank = 0 is given without world_size: give both, or neither"),
        ({"world_size": 2}, "world_size = 2 is given without rank: give both, or neither"),
        ({"scale": (0.0, 1.0)}, "scale = (0.0, 1.0)"),
        ({"scale": (0.5, 0.2)}, "scale = (0.5, 0.2)"),
        ({"scale": (0.5, 1.1)}, "scale = (0.5, 1.1)"),
        ({"ratio": (0.0, 1.0)}, "ratio = (0.0, 1.0)"),
        ({"ratio": (2.0, 1.0)}, "ratio = (2.0, 1.0)"),
        ({"flip": -0.1}, "flip = -0.1"),
        ({"flip": 1.5}, "flip = 1.5"),
        ({"flip": float("nan")}, "flip = nan"),
        ({"center_ratio": 0.0}, "center_ratio = 0.0"),
        ({"center_ratio": 1.01}, "center_ratio = 1.01"),
        ({"batches_ahead": 0}, "batches_ahead = 0"),
        ({"decoder": "fast"}, 'decoder = \'fast\' is out of range, expected "auto" or "libjpeg"'),
        ({"on_error": "ignore"}, 'on_error = \'ignore\' is out of range, expected "raise" or "skip"'),
        ({"stall_s": 0}, "stall_s = 0 is out of range, expected more than 0 seconds"),
        ({"stall_s": float("nan")}, "stall_s = nan"),
        ({"read_ahead_bytes": -1}, "read_ahead_bytes = -1 is out of range, expected at least 0"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(
    beton: Path, given: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        Loader(beton, **{"batch_size": 8, "train": True, **given})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


WHOLE = ("8", 2.0, True, np.True_, None, [8], np.array([8, 8]))
NUMBERS = ("0.5", None, True, np.True_, [0.5], float("nan"), float("inf"))
PAIRS = (
    None,
    0.5,
    (0.5,),
    (0.1, 0.2, 0.3),
    ("a", "b"),
    "ab",
    {0.1, 0.5},
    (True, True),
    (0.5, float("nan")),
    (0.5, 2**2000),
    (0.1, [0.5]),
)
FLAGS = ("False", "no", 2, 1.0, [True])
WRONG: dict[str, tuple[Any, ...]] = {
    "path": (None, 3, b"a.beton", "", [], [3], ["a.beton", None], ["a.beton", []], {"a.beton"}),
    **dict.fromkeys(("image_field", "label_field"), (3, b"label", ["label"], True)),
    **dict.fromkeys(("batch_size", "seed", "batches_ahead", "read_ahead_bytes", "views"), WHOLE),
    **dict.fromkeys(("threads", "rank", "world_size"), tuple(given for given in WHOLE if given is not None)),
    **dict.fromkeys(("flip", "center_ratio"), NUMBERS),
    "stall_s": NUMBERS[:-1],  # infinity never tires
    **{name: (*PAIRS, (0.5, float("inf"))) for name in ("scale", "ratio")},
    **dict.fromkeys(("train", "pin_memory"), (*FLAGS, None)),
    **dict.fromkeys(("shuffle", "drop_last"), FLAGS),
    "options": (True, "train", {"train": True}, LoaderOptions),
    "augmentations": (
        None,
        "Solarize",
        Solarize(),
        Solarize,
        [Solarize],
        [5],
        [torch.nn.Identity()],
        iter([Solarize()]),
    ),
    "mix": (True, "mixup", 0.2, Mix, {"mixup": 0.2}),
    "decoder": (None, 1, ["auto"], "fast"),
    "on_error": (None, 1, ["raise"], "ignore"),
    **dict.fromkeys(("image_field", "label_field"), (3, b"image", ["image"])),
    "indices": (
        [1.5],
        ["0"],
        3,
        [],
        [[0, 1]],
        [[0], [0, 1]],
        [True, False],
        [-1],
        [99],
        iter([0]),
        {0},
        [2**70],
        "01",
        {0: 1},
    ),
}


WRONG |= {
    "fields": ("image", b"image", 3, True, (), ("image", "image"), [3], {"image": "label"}),
    "size": (*WHOLE[:-1], (224,), [64, 64, 64], (64, 0), (5000, 64), (64, "64"), (64, 1.5), (True, 64)),
    "interpolation": ("nearest", "BICUBIC", "", 2, None, True, ["bicubic"]),
    "order": ([1.5], "01", 3, [], [[0]], [True], [-1], [99], Balanced, lambda epoch: [50], {0}),
    "weights": ("abc", 3, [], [-1], [0.0], [[1]], {1}, [float("nan")]),
    "normalize": (
        "ImageNet",
        0.5,
        (0.5, 0.5),
        ((0.5,), (0.5,)),
        ((0, 0, 0), (1, 1, 0)),
        ImageNet[0],
        ("abc", "abc"),
    ),
    "dtype": ("float32", np.float32, torch.float64, torch.int8, 16),
    "memory_format": ("channels_last", torch.preserve_format, torch.channels_last_3d, True),
}


def test_there_is_a_wrong_value_for_every_argument() -> None:
    assert WRONG.keys() == inspect.signature(Loader).parameters.keys()


@pytest.mark.parametrize("name", WRONG)
def test_an_argument_of_a_wrong_type_is_one_sentence_that_names_it(beton: Path, name: str) -> None:
    for given in WRONG[name]:
        with pytest.raises(UserError, match=f"^{name} .*") as caught:
            Loader(**{"path": beton, "batch_size": 8, "train": True, name: given})
        said = str(caught.value)
        assert "\n" not in said and len(said) < 400 and ("expected" in said or "has samples 0 to 49" in said)
    assert not decoding_threads()


def test_a_long_argument_is_shown_in_short(beton: Path) -> None:
    with pytest.raises(UserError) as caught:
        Loader(beton, np.arange(10_000).reshape(100, 100), train=True)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_numpys_numbers_lists_and_path_likes_are_taken_for_pythons(beton: Path) -> None:
    class Place:
        def __fspath__(self) -> str:
            return str(beton)

    numpys: dict[str, Any] = {
        "train": np.True_,
        "size": np.int32(64),
        "seed": np.uint64(3),
        "threads": np.array(1),
        "shuffle": np.False_,
        "drop_last": 0,
        "scale": [0.25, 1],
        "ratio": np.array([0.75, 1.5], np.float32),
        "flip": np.float64(0.5),
    }
    expected = loaded(
        beton, 10, train=True, size=64, seed=3, shuffle=False, scale=(0.25, 1.0), ratio=(0.75, 1.5), flip=0.5
    )
    with Loader(Place(), np.int64(10), **numpys) as loader:
        assert type(loader.batch_size) is type(loader.size) is int and loader.train is True
        for batch in loader:
            for image, label in zip(*batch):
                assert np.array_equal(image, expected[int(label)])


@pytest.mark.parametrize("given", ["3", 1.0, True, None, 2**63])
def test_a_cursor_of_a_wrong_type_is_refused(beton: Path, given: Any) -> None:
    with Loader(beton, 8, train=True) as loader:
        with pytest.raises(UserError, match="^epoch = "):
            loader.set_epoch(given)
        if given is not None:  # no step
            with pytest.raises(UserError, match="^step = "):
                loader.set_epoch(0, given)
        assert loader.epoch == 0


@pytest.mark.parametrize(("epoch", "step"), [(-1, 0), (0, -1), (0, 7)])
def test_a_cursor_out_of_range_is_refused(beton: Path, epoch: int, step: int) -> None:
    with Loader(beton, 8, train=True) as loader, pytest.raises(UserError, match="out of range"):
        loader.set_epoch(epoch, step)


def test_the_largest_seed_and_epoch_work(beton: Path) -> None:
    with Loader(beton, 10, train=True, seed=2**64 - 1, size=32) as loader:
        loader.set_epoch(2**62)
        assert sorted(labels_of(loader)) == list(range(COUNT))


def test_a_batch_larger_than_the_set_is_refused_with_what_to_do(beton: Path) -> None:
    expected = r"has 50 samples, fewer than one batch of 60 \(20 on each of 3 ranks\).*at most 16 on each, or Loader drop_last=False"
    with pytest.raises(UserError, match=expected):
        Loader(beton, 20, train=True, rank=0, world_size=3)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BetonError, match="does not exist"):
        Loader(tmp_path / "none.beton", 8, train=True)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator here to pin memory for")
def test_pinned_memory_without_an_accelerator_is_refused(beton: Path) -> None:
    with pytest.raises(UserError, match="pin_memory = True was asked for, but torch finds no accelerator"):
        Loader(beton, 8, train=True, pin_memory=True)
