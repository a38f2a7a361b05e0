"""Betons by URL, wherever a path may be given: the same samples as from a local file."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast import Beton, Loader, localized
from alexnet_fast.build import fetch_sets
from alexnet_fast.common.machine import Machine
from alexnet_fast.doctor import recipe_checks
from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import scan_folder, write_beton
from alexnet_fast.recipe_toml import validate
from betons import loaded
from folders import fill

from .web_server import Handler, WebServer


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine samples of two classes, with their sidecar."""
    root = fill(tmp_path_factory.mktemp("images") / "train", {"ant": 6, "cat": 3})
    return write_beton(scan_folder(root), root.parent / "train.beton", Encoding(), workers=1).path


@pytest.fixture
def url(web: WebServer, cache: Path, local: Path) -> str:
    web.files["/sets/train.beton"] = local.read_bytes()
    web.files["/sets/train.beton.json"] = local.with_name("train.beton.json").read_bytes()
    return f"{web.url}/sets/train.beton"


def test_a_loader_of_a_url_hands_out_what_a_loader_of_the_file_does(url: str, local: Path) -> None:
    ours, theirs = loaded(url, train=True, size=32), loaded(local, train=True, size=32)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[label], theirs[label]) for label in theirs)


def test_a_beton_by_url_has_its_sidecar_and_opens_again_from_a_pickle(url: str) -> None:
    with Beton(url) as beton:
        assert (beton.sidecar or {})["classes"] == ["ant", "cat"]
        assert beton.location == url and beton.path.is_file()
        again = pickle.loads(pickle.dumps(beton))
    with again:
        assert again.location == url and len(again) == 9
    with Loader(url, 2, train=False) as loader, pickle.loads(pickle.dumps(loader)) as other:
        assert other.beton.location == url


def test_urls_and_files_are_one_set_in_a_list(url: str, local: Path) -> None:
    with Loader([url, local], 2, train=False) as several:
        assert len(several.beton) == 18 and several.beton.labels.tolist() == [*several.beton.labels[:9]] * 2
        with pickle.loads(pickle.dumps(several)) as other:
            assert other.beton.files == several.beton.files


def test_an_index_by_url_is_refused_with_what_to_give_instead(web: WebServer) -> None:
    with pytest.raises(UserError, match=r"train.index.json is an index, .* give the URLs of its files"):
        Loader(f"{web.url}/sets/train.index.json", 2, train=False)


def test_a_path_of_a_url_is_that_url(url: str) -> None:
    with Beton(Path(url)) as beton:
        assert len(beton) == 9
    assert localized(Path(url)) == localized(url) == beton.path


def test_a_wrong_sample_is_found_by_the_sidecar_and_fetched_again(
    url: str, web: WebServer, local: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Beton(local) as beton:
        at = int(beton.images["data_ptr"][4]) + 7
    right = local.read_bytes()

    def wrong(handler: Handler, start: int, end: int) -> bool:
        if not start <= at < end:
            return False
        handler.served.fault = None
        handler.send(right, start, end, right[start:at] + b"?" + right[at + 1 : end])
        return True

    web.fault = wrong
    with Beton(url) as beton:
        assert beton.path.read_bytes() == right
    assert (
        "1 of its samples, sample 4 first, do not match their checksums: those bytes are fetched again"
        in caplog.text
    )


def test_a_file_that_is_corrupt_there_is_refused_with_its_sample(
    url: str, web: WebServer, local: Path
) -> None:
    with Beton(local) as beton:
        at = int(beton.images["data_ptr"][4]) + 7
    right = local.read_bytes()
    web.files["/sets/train.beton"] = right[:at] + b"?" + right[at + 1 :]
    with pytest.raises(
        UserError, match=r"train.beton: 1 of its samples, sample 4 first, .* the file there is corrupt"
    ):
        Beton(url)


@pytest.mark.parametrize("where", [5, 2100, -10])  # header, metadata, allocation table
def test_a_corrupt_index_is_refused(url: str, web: WebServer, local: Path, where: int) -> None:
    content = bytearray(local.read_bytes())
    content[where] ^= 0xFF
    web.files["/sets/train.beton"] = bytes(content)
    with pytest.raises(UserError, match=r"train.beton.*: .*although those bytes were fetched twice"):
        Beton(url)


def test_a_page_that_is_no_beton_is_refused(url: str, web: WebServer) -> None:
    web.files["/sets/train.beton"] = b"<html>please log in</html>" * 100
    with pytest.raises(UserError, match="train.beton is not a beton of version 2"):
        Beton(url)


def command(main: Callable[..., Any], *arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(lambda: main(list(map(str, arguments))))
    return code, out.getvalue(), err.getvalue()


def test_inspect_and_verify_take_urls(url: str) -> None:
    from alexnet_fast import inspect_beton, pack

    code, out, _ = command(inspect_beton.main, url)
    assert code == 0 and "train.beton: 9 samples of 2 classes" in out
    code, out, _ = command(pack.main, "--verify", url, "--workers", "1")
    assert (
        code == 0 and "9 samples, no fault: every sample decodes completely and matches its checksum" in out
    )


def test_a_missing_file_is_one_sentence(url: str) -> None:
    from alexnet_fast import inspect_beton

    code, _, err = command(inspect_beton.main, url.replace("train", "test"))
    assert code == 2 and err.endswith(
        "/sets/test.beton does not exist: the server answered 404 Not Found; check the URL\n"
    )


def of_recipe(url: str) -> Any:
    return validate({"data": {"train": url, "val": url, "global_batch_size": 2}, "model": {"num_classes": 2}})


def test_a_run_waits_for_its_sets_and_then_asks_nobody(url: str, web: WebServer) -> None:
    from alexnet_fast.build import train_loader
    from alexnet_fast.devices.cpu import Cpu
    from alexnet_fast.distributed.world import World

    fetch_sets(of_recipe(url))
    contacts = web.contacts
    with train_loader(of_recipe(url), World(0, 1), Cpu()) as loader:
        assert len(loader) == 4
    assert web.contacts == contacts


def test_only_samples_may_be_elsewhere() -> None:
    with pytest.raises(UserError, match="run.out = .*s3://bucket/runs is a URL, .* give a local path"):
        validate({"run": {"out": "s3://bucket/runs"}})


def test_a_recipe_that_is_refused_does_not_show_a_password() -> None:
    with pytest.raises(UserError) as raised:
        validate({"run": {"out": "https://me:PASSWORD@host/runs?token=SECRET"}})
    assert "https://host/runs?..." in str(raised.value)
    assert "PASSWORD" not in str(raised.value) and "SECRET" not in str(raised.value)


def test_the_doctor_says_what_is_not_here_yet_and_looks_into_what_is(url: str) -> None:
    recipe = of_recipe(url)
    use = recipe_checks.Use("cpu", 1, 1)
    first = recipe_checks.files(recipe, use)[0]
    (found,) = recipe_checks.examine_file(first, recipe, use, Machine(), False)
    assert found.status == "ok" and "not in the cache yet; a run fetches it first" in found.found
    assert recipe_checks.classes(recipe, use) == []
    fetch_sets(recipe)
    there = recipe_checks.files(recipe, use)[0]
    contents = next(iter(recipe_checks.examine_file(there, recipe, use, Machine(), False)))
    assert "9 samples" in contents.found


def test_the_doctor_says_why_a_file_cannot_be_had(url: str) -> None:
    recipe = of_recipe(url.replace("train", "test"))
    use = recipe_checks.Use("cpu", 1, 1)
    (found,) = recipe_checks.examine_file(recipe_checks.files(recipe, use)[0], recipe, use, Machine(), False)
    assert (found.status, found.remedy) == ("fault", "check the URL")
    assert json.dumps(found.found).count("404 Not Found") == 1


@pytest.mark.long
def test_two_ranks_train_from_a_url_as_from_the_file(
    url: str, web: WebServer, local: Path, cache: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    """The launcher fetches the file once; its ranks ask nobody."""
    losses = []
    for name, path in (("elsewhere", url), ("here", str(local))):
        (tmp_path / f"{name}.toml").write_text(
            f'[run]\nname = "{name}"\ndevice = "cpu"\nout = {json.dumps(str(tmp_path))}\n'
            f"[data]\ntrain = {json.dumps(path)}\nval = {json.dumps(path)}\nsize = 64\nglobal_batch_size = 4\n"
            '[model]\nnum_classes = 2\n[schedule]\nepochs = 1\nper = "step"\n[log]\nprint_freq = 1\n'
            "[checkpoint]\nevery_epochs = 0\n[distributed]\nnproc = 2\n"
        )
        done = run_cli(
            "-m", "alexnet_fast.train", tmp_path / f"{name}.toml", env={"ALEXNET_FAST_CACHE": str(cache)}
        )
        assert done.code == 0, done.stderr
        report = json.loads((tmp_path / name / "report.json").read_text())
        losses.append([report[key] for key in ("train_loss", "val_loss", "train_acc1", "ranks")])
    assert losses[0] == losses[1]
    # Beside the bytes: the size of each of the two files, and whether the first has changed meanwhile.
    assert web.contacts == len(web.asked) + 3
