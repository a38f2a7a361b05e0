"""The Loader's options in one object, and as the keyword arguments that they are."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import pydoc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast import Loader, LoaderOptions
from alexnet_fast.errors import UserError
from alexnet_fast.loader.options import LoaderKeywords
from betons import jpeg, picture, write

COUNT = 12


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [jpeg(picture(80, 60, k)) for k in range(COUNT)]
    return write(tmp_path_factory.mktemp("options") / "a.beton", entries)


def epoch_of(path: Path, *options: Any, **keywords: Any) -> list[tuple[list[int], bytes]]:
    with Loader(path, 4, *options, **keywords) as loader:
        return [(batch.labels.tolist(), batch.images.numpy().tobytes()) for batch in loader]


def test_a_loader_takes_its_options_in_one_object_or_one_by_one(beton: Path) -> None:
    given: dict[str, Any] = {"train": True, "size": 40, "seed": 3, "scale": [0.3, 0.9], "drop_last": False}
    expected = epoch_of(beton, **given)
    assert (
        epoch_of(beton, LoaderOptions(**given)) == epoch_of(beton, options=LoaderOptions(**given)) == expected
    )


def test_a_keyword_replaces_what_the_options_hold_and_leaves_them_as_they_are(beton: Path) -> None:
    options = LoaderOptions(train=True, size=40, seed=3)
    changed = epoch_of(beton, options, seed=4, threads=1)
    assert changed == epoch_of(beton, train=True, size=40, seed=4) != epoch_of(beton, options)
    assert (options.seed, options.threads) == (3, None)


def test_what_follows_train_follows_it_when_it_is_replaced(beton: Path) -> None:
    options = LoaderOptions(train=True, size=40)
    with Loader(beton, 5, options, train=False) as loader:
        assert (len(loader), loader.dropped) == (3, 0)
        assert [int(label) for batch in loader for label in batch.labels] == list(range(COUNT))


def test_a_loader_shows_its_options(beton: Path) -> None:
    with Loader(beton, 4, train=False, size=np.int32(40), ratio=[1, 2]) as loader:  # type: ignore[arg-type]
        assert type(loader.options.size) is int and loader.options.ratio == (1.0, 2.0)
        again = pickle.loads(pickle.dumps(loader.options))
        assert vars(again) == vars(loader.options)


def test_options_keep_what_they_were_made_with() -> None:
    options = LoaderOptions(train=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.size = 96  # type: ignore[misc]
    with pytest.raises(TypeError):
        LoaderOptions(True)  # type: ignore[call-arg,misc]


def test_what_a_loader_refuses_its_options_refuse_by_the_same_sentence(beton: Path) -> None:
    for wrong in ({"size": 0}, {"rank": 2, "world_size": 2}, {"flip": True}, {"on_error": "ignore"}):
        with pytest.raises(UserError) as own:
            LoaderOptions(train=True, **wrong)  # type: ignore[arg-type]
        with pytest.raises(UserError) as loaders:
            Loader(beton, 4, train=True, **wrong)  # type: ignore[arg-type]
        assert str(own.value) == str(loaders.value)


def test_train_and_known_names_alone_are_taken(beton: Path) -> None:
    with pytest.raises(TypeError, match="train"):
        Loader(beton, 4)
    with pytest.raises(TypeError, match="sise"):
        Loader(beton, 4, train=True, sise=96)  # type: ignore[call-arg]
    with pytest.raises(UserError, match="^options = True is of type bool, expected a LoaderOptions"):
        Loader(beton, 4, True)  # type: ignore[arg-type]


def test_help_and_signature_name_every_option_with_its_default() -> None:
    parameters = inspect.signature(Loader).parameters
    fields = dataclasses.fields(LoaderOptions)
    assert list(parameters) == ["path", "batch_size", "options", *(field.name for field in fields)]
    for field in fields:
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        assert parameters[field.name].default is default
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
    shown = pydoc.render_doc(Loader, renderer=pydoc.plaintext)
    assert "size: int | tuple[int, int] = 224" in shown or "size: 'int | tuple[int, int]' = 224" in shown
    assert "flip: probability of a mirrored image." in shown
    assert all(f"{field.name}" in shown for field in fields)


def test_type_checkers_see_the_same_names_and_types() -> None:
    assert LoaderKeywords.__annotations__.keys() == LoaderOptions.__annotations__.keys()
    types = {name: each.__forward_arg__ for name, each in LoaderKeywords.__annotations__.items()}
    assert types == LoaderOptions.__annotations__
