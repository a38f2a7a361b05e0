"""The reference's interface: its scripts' command lines, its log lines as its scripts read them, its checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast import modelzoo_flags
from alexnet_fast import train as command
from alexnet_fast.distributed.world import World
from alexnet_fast.engine.evaluate import Score, evaluate
from alexnet_fast.engine.tasks import Classification
from alexnet_fast.errors import UserError
from alexnet_fast.loader.sampler import DistributedBatchSampler
from alexnet_fast.models.alexnet import AlexNet
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import load
from alexnet_fast.run import checkpoint, import_reference

CLASSES = 3
RECIPES = Path(__file__).parents[1] / "recipes"

# What its five scripts pass, with $(...) and ${...} expanded on a host of 16 cores at 10.0.0.7.
ONE_CARD = """DATA -a alexnet --addr=10.0.0.7 --seed=49 --workers=16 --learning-rate=0.01 --mom=0.9
    --weight-decay=1.0e-04 --print-freq=1 --device=npu --gpu=3 --dist-backend hccl --epochs=EPOCHS --batch-size=128
    --label-smoothing=0.1 --amp"""
EIGHT_CARDS = """DATA -a alexnet --addr=10.0.0.7 --seed=49 --workers=16 --learning-rate=0.04 --mom=0.9
    --weight-decay=1.0e-04 --print-freq=1 --dist-url=tcp://127.0.0.1:41111 --dist-backend hccl
    --multiprocessing-distributed --world-size=1 --rank=0 --device=npu --epochs=EPOCHS --amp --label-smoothing=0.1
    --batch-size=1024"""
SCRIPTS = {
    "1p": ONE_CARD.replace("EPOCHS", "90"),
    "1p_perf": ONE_CARD.replace("EPOCHS", "1"),
    "8p": EIGHT_CARDS.replace("EPOCHS", "90"),
    "8p_perf": EIGHT_CARDS.replace("EPOCHS", "1"),
    "8p_eval": EIGHT_CARDS.replace("EPOCHS", "1") + " --evaluate --resume ./checkpoints/model_best.pth.tar",
}


@pytest.fixture
def npus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of eight NPUs and 16 cores, as seen by the flags."""
    monkeypatch.setattr(
        modelzoo_flags, "_kind", lambda device: device.partition(":")[0].replace("auto", "npu")
    )
    monkeypatch.setattr(modelzoo_flags, "_count", lambda kind: 8)
    monkeypatch.setattr(modelzoo_flags, "allowed_cores", lambda: 16)


@pytest.fixture
def betons(tmp_path: Path) -> Path:
    """A folder of two empty files named as betons, for code that does not open them."""
    folder = tmp_path / "betons"
    folder.mkdir()
    for split in ("train", "val"):
        (folder / f"{split}.beton").touch()
    return folder


def resolved(*argv: object, environ: dict[str, str] | None = None) -> tuple[Recipe, str]:
    """The recipe that a command line resolves to, and the name of the one that it started from."""
    arguments = command.parse([str(text) for text in argv])
    path = Path(arguments.recipe or modelzoo_flags.choose_recipe(arguments))
    flags = modelzoo_flags.overrides(arguments, load(path, arguments.set), environ or {})
    if arguments.data_path:
        flags += modelzoo_flags.data_overrides(
            arguments, load(path, [*flags, *arguments.set]), lambda _: None
        )
    return load(path, [*flags, *arguments.set]), path.stem


def at(recipe: Recipe, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


def refused(capsys: Any, *argv: object) -> str:
    """The one-sentence error of a command line that exits with 2."""
    try:
        code: Any = command.main([str(text) for text in argv])
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return str(captured.err)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.usefixtures("npus")
def test_a_line_of_each_script_chooses_its_recipe_and_changes_none_of_its_settings(
    name: str, betons: Path
) -> None:
    recipe, chosen = resolved(*SCRIPTS[name].replace("DATA", str(betons)).split())
    assert chosen == name
    own = load(RECIPES / f"{name}.toml").model_dump()
    given = recipe.model_dump()
    changed = {
        f"{section}.{key}": given[section][key]
        for section in own
        for key in own[section]
        if given[section][key] != own[section][key]
    }
    expected: dict[str, Any] = {f"data.{split}": str(betons / f"{split}.beton") for split in ("train", "val")}
    expected |= {"run.device": "npu:3" if name.startswith("1p") else "npu", "log.print_freq": 1}
    expected |= {"distributed.backend": "hccl"}
    assert {key: value for key, value in changed.items() if key != "schedule.epochs"} == expected


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        ("--seed 7", "run.seed", 7),
        ("--workers 6", "data.threads", 6),
        ("-j 6 --set distributed.nproc=4", "data.threads", 2),
        ("--workers 16", "data.threads", 0),
        ("--learning-rate 0.5", "optim.lr", 0.5),
        ("--lr=1", "optim.lr", 1.0),
        ("--mom 0.8", "optim.momentum", 0.8),
        ("--momentum=0.8", "optim.momentum", 0.8),
        ("--weight-decay 5e-4", "optim.weight_decay", 5e-4),
        ("--wd 0", "optim.weight_decay", 0.0),
        ("--print-freq 3", "log.print_freq", 3),
        ("-p3", "log.print_freq", 3),
        ("--device npu", "run.device", "npu"),
        ("--device GPU", "run.device", "cuda"),
        ("--dist-backend nccl", "distributed.backend", "nccl"),
        ("--epochs 2", "schedule.epochs", 2),
        ("--batch-size 96", "data.global_batch_size", 96),
        ("-b 96", "data.global_batch_size", 96),
        ("--label-smoothing 0.2", "optim.label_smoothing", 0.2),
        ("--amp", "precision.level", "O2"),
        ("--no-amp", "precision.level", "O0"),
        ("--amp --opt-level O1", "precision.level", "O1"),
        ("--loss-scale 1024", "precision.loss_scale", 1024.0),
        ("--loss-scale=-1", "precision.loss_scale", "dynamic"),
        ("-a resnet50 --set model.dropout=0", "model.name", "resnet50"),
        ("--gpu 5", "run.device", "npu:5"),
        ("--gpu 5 --device gpu", "run.device", "cuda:5"),
        ("--multiprocessing-distributed", "distributed.nproc", 8),
        ("--multiprocessing-distributed --device_list 0,1,2", "distributed.nproc", 3),
        ("--multiprocessing-distributed --device cpu --set distributed.nproc=2", "distributed.nproc", 2),
        ("--world-size 2 --rank 1 --addr h", "distributed.hosts", 2),
        ("--world-size 2 --rank 1 --addr h", "distributed.host", 1),
        ("--world-size 2 --rank 1 --addr h", "distributed.address", "h:29688"),
        ("--world-size 2 --addr h --dist-url tcp://127.0.0.1:23456", "distributed.address", "h:23456"),
        ("--world-size 2 --dist-url tcp://g:1", "distributed.address", "g:1"),
        ("--addr h --set distributed.hosts=2", "distributed.address", "h:29688"),
        ("--world-size 1 --rank 0 --addr h --dist-url tcp://127.0.0.1:9", "distributed.address", ""),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("npus")
def test_each_flag_overrides_its_key_of_the_recipe(argv: str, key: str, value: Any) -> None:
    assert at(resolved(RECIPES / "1p.toml", *argv.split())[0], key) == value


@pytest.mark.usefixtures("npus")
def test_set_overrides_flags() -> None:
    recipe, _ = resolved(RECIPES / "1p.toml", "--lr", 0.5, "--mom", 0.8, "--set", "optim.lr=0.25")
    assert (recipe.optim.lr, recipe.optim.momentum, recipe.optim.weight_decay) == (0.25, 0.8, 1e-4)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WORLD_SIZE": "3", "RANK": "2", "MASTER_ADDR": "m", "MASTER_PORT": "5"}, (3, 2, "m:5")),
        (
            {"WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "m"},
            (1, 0, ""),
        ),  # torchrun's ranks
        ({}, (1, 0, "")),
    ],
)
def test_env_takes_hosts_from_the_environment_unless_torchrun_set_them(
    environ: dict[str, str], expected: Any
) -> None:
    recipe, _ = resolved(
        RECIPES / "1p.toml", "--dist-url", "env://", "--world-size", -1, "--rank", -1, environ=environ
    )
    ranks = recipe.distributed
    assert (ranks.hosts, ranks.host, ranks.address) == expected


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--epoch 3", "unknown flag --epoch; did you mean --epochs?"),
        ("--batchsize=3", "unknown flag --batchsize; did you mean --batch-size?"),
        ("--data-pth x", "unknown flag --data-pth; did you mean --data-path?"),
        ("--xyzzy", "unknown flag --xyzzy: see --help"),
        ("--pretrained", "unknown flag --pretrained: give the weights with --set model.weights=PATH"),
        ("--start-epoch 3", "--resume PATH resumes at the epoch"),
        ("--epochs three", "argument --epochs: invalid int value: 'three'"),
        ("--epochs", "argument --epochs: expected one argument"),
        (
            "/no/such/folder",
            "/no/such/folder does not exist: expected a recipe (a .toml file) or a folder of data",
        ),
        ("a.toml b.toml", "unexpected argument b.toml after a.toml"),
        ("/tmp --data_path /tmp", "unexpected argument /tmp after /tmp"),
        ("--beton-dir x", "give --data_path too"),
        ("", "expected a RECIPE"),
        ("--data_path /no/such", "--data_path /no/such does not exist"),
        ("--gpu 1 --device cpu", "--gpu 1 names a card, but the device is the CPU"),
        ("--gpu 1 --multiprocessing-distributed", "contradict each other"),
        ("--multiprocessing-distributed --device_list 4,5", "ASCEND_RT_VISIBLE_DEVICES"),
        (
            "--world-size 2 --rank 2 --addr h",
            "--rank 2 is not the number of a host: with --world-size 2, expected 0 to 1",
        ),
        ("--world-size 2 --rank 1", "distributed.address = '' is not an address for 2 hosts"),
        ("--world-size 2 --dist-url file:///x", "--dist-url file:///x: expected tcp://host:port or env://"),
        ("--world-size 2 --dist-url tcp://h:port", "expected tcp://host:port or env://"),
        ("--world-size 2 --dist-url env://", "MASTER_ADDR"),
        ("--mom 2", "optim.momentum = 2.0 is not accepted"),
        ("--batch-size 0", "on the command line: data.global_batch_size = 0 is not accepted"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_flag(argv: str, sentence: str, capsys: Any) -> None:
    assert sentence in refused(capsys, *argv.split())


def test_every_flag_of_the_references_readme_is_in_help_with_its_recipe_key(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        command.parse(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for flag in [
        "--data_path",
        "--addr",
        "--seed",
        "--workers",
        "--learning-rate",
        "--mom",
        "--weight-decay",
        "--print-freq",
        "--device",
        "--dist-backend",
        "--epochs",
        "--batch-size",
        "--label-smoothing",
        "--amp",
        "--gpu",
        "--rank",
        "--dist-url",
        "--multiprocessing-distributed",
        "--world-size",
    ]:
        assert flag in shown
    for key in ("optim.lr", "data.global_batch_size", "distributed.hosts", "run.device", "precision.level"):
        assert key in shown


# --- runs


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ of 13 and val/ of 7 images: three classes of textures."""
    root = tmp_path_factory.mktemp("imagenet") / "raw"
    generator = np.random.default_rng(0)
    for split, count in (("train", 13), ("val", 7)):
        for index in range(count):
            path = root / split / f"class{index % CLASSES}" / f"{index:02}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            grain = 2 ** (2 + 2 * (index % CLASSES))
            small = generator.integers(0, 256, (90 // grain + 2, 110 // grain + 2, 3), dtype=np.uint8)
            Image.fromarray(small).resize((110, 90), Image.Resampling.BICUBIC).save(path)
    return root


SMALL = [
    "--device=cpu", "--batch-size=4", "--set", "data.size=64", "--set", f"model.num_classes={CLASSES}",
    "--set", "model.dropout=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(
    raw: Path, run_cli: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run of the one-card script's line on the raw folder, in its own process: its folder and its log."""
    out = tmp_path_factory.mktemp("runs")
    line = SCRIPTS["1p"].replace("DATA", str(raw)).replace("--epochs=90", "--epochs=2").replace("--gpu=3", "")
    line = line.replace("--device=npu", "").replace("hccl", "gloo").replace("--batch-size=128", "")
    done = run_cli("-m", "alexnet_fast.train", *line.split(), *SMALL, "--set", f"run.out={out}", "--set",
                   "eval.full_batches_of=4", "--no-amp")  # fmt: skip
    assert done.code == 0, done.stderr
    (out / "train_0.log").write_text(done.stdout + done.stderr)
    return out / "1p", out / "train_0.log"


def test_the_scripts_find_their_figures_in_our_log(finished: tuple[Path, Path]) -> None:
    folder, log = finished
    report = json.loads((folder / "report.json").read_text())

    def reads(pipeline: str) -> list[str]:
        return subprocess.run(
            ["bash", "-c", pipeline.replace("LOG", f"'{log}'")], capture_output=True, text=True, check=True
        ).stdout.split()

    # As test/train_full_1p.sh and the others have it.
    fps = reads("""grep -a 'FPS' LOG|awk -F " " '{print $NF}'|awk 'END {print}'""")
    accuracy = reads(
        """grep -a '* Acc@1' LOG|awk 'END {print}'|awk -F "Acc@1" '{print $NF}'|awk -F " " '{print $1}'"""
    )
    losses = reads("""grep Epoch: LOG|grep -v Test|awk -F "Loss" '{print $NF}' | awk -F " " '{print $1}'""")
    assert len(fps) == 1 and 0 < float(fps[0]) < 1e5
    assert accuracy == [f"{report['acc1']:.3f}"]
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert losses == [f"{step['loss']:.4e}" for step in steps if step["kind"] == "step"] and len(losses) == 6

    closing = log.read_text().splitlines()
    for line in (
        f"Final Performance images/sec : {report['img_per_s']:.2f}",
        f"Final Train Accuracy : {report['acc1']:.3f}",
        f"E2E Training Duration sec : {report['seconds']:.1f}",
    ):
        assert line in closing


def test_a_raw_folder_is_packed_before_training_and_the_accuracy_is_exact(
    finished: tuple[Path, Path], raw: Path
) -> None:
    folder, log = finished
    text = log.read_text()
    assert text.index("packing ") < text.index("Epoch: [0]")
    assert (raw.with_name("raw-beton") / "val.beton").exists()
    report = json.loads((folder / "report.json").read_text())
    assert (report["val_samples"], report["full_batches"]["samples"]) == (7, 4)
    assert f"over full batches only (4 of 7 samples): Acc@1 {report['full_batches']['acc1']:.3f}" in text


def in_process(*argv: object) -> int:
    return command.main([str(text) for text in argv])


def test_a_folder_without_val_trains_and_says_that_nothing_is_evaluated(
    raw: Path, finished: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    shutil.copy(raw.with_name("raw-beton") / "train.beton", tmp_path)
    assert in_process("--data_path", tmp_path, *SMALL, "--epochs=1", "--set", f"run.out={tmp_path}", "--set",
                      "schedule.steps_per_epoch=1", "--set", "checkpoint.every_epochs=0") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "has no val/: nothing will be evaluated" in out and "Final Train Accuracy : not evaluated" in out
    assert "has nothing to evaluate on" in refused(capsys, "--data_path", tmp_path, *SMALL, "--evaluate")


def test_the_eight_card_line_trains_two_ranks_on_a_raw_folder(
    raw: Path, run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    line = SCRIPTS["8p_perf"].replace("DATA", str(raw)).replace("--device=npu", "").replace("hccl", "gloo")
    sets = [
        "distributed.nproc=2",
        f"run.out={tmp_path}",
        "checkpoint.every_epochs=0",
        "eval.full_batches_of=4",
    ]
    done = run_cli("-m", "alexnet_fast.train", *line.split(), "--beton-dir", tmp_path / "packed", *SMALL,
                   *(text for key in sets for text in ("--set", key)))  # fmt: skip
    assert done.code == 0, done.stderr
    report = json.loads((tmp_path / "8p_perf" / "report.json").read_text())
    assert (report["ranks"], report["steps"], report["val_samples"]) == (2, 3, 7)
    assert report["recipe"]["precision"]["level"] == "O2"
    assert report["full_batches"]["samples"] == 4
    assert done.stdout.count("[AVG-ACC]") == done.stdout.count("FPS@all") == 1  # by rank 0 only
    assert done.stdout.count("packed /") == 2  # train and val, by the launcher only
    # The speed counts the images of all ranks: speed x seconds is the images of the epoch.
    epoch = json.loads((tmp_path / "8p_perf" / "metrics.jsonl").read_text().splitlines()[-1])
    assert epoch["img_per_s"] * epoch["seconds"] == pytest.approx(12, rel=0.02)


def test_a_mistake_is_found_before_images_are_packed(raw: Path, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "packed"
    for argv in (["--mom", "2"], ["--world-size", "2"], ["--device", "abacus"], ["-a", "x y"]):
        refused(capsys, raw, "--beton-dir", target, *argv)
    assert not target.exists()


# --- checkpoints


class OnNpu(torch.Tensor):
    """Pickles like a tensor of torch_npu on an NPU: as a call of its own function, with the bytes of a CPU copy."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain = self.as_subclass(torch.Tensor)
        rebuild = sys.modules["torch_npu.utils.storage"]._rebuild_npu_tensor
        layout = sys.modules["torch_npu.npu._format"].Format(2)
        storage = plain._typed_storage()
        return rebuild, (storage, 0, tuple(plain.size()), plain.stride(), False, OrderedDict(), layout)


@pytest.fixture
def torch_npu_saves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The parts of torch_npu that saving a tensor needs; removed again before loading."""

    class Format:
        def __init__(self, number: int) -> None:
            self.number = number

        def __reduce__(self) -> Any:
            return Format, (self.number,)

    def _rebuild_npu_tensor(*_: Any) -> None:
        raise AssertionError("not to be run")

    with monkeypatch.context() as patched:
        for name, member in (
            ("torch_npu.utils.storage", _rebuild_npu_tensor),
            ("torch_npu.npu._format", Format),
        ):
            module = ModuleType(name)
            member.__module__, member.__qualname__ = name, member.__name__
            setattr(module, member.__name__, member)
            patched.setitem(sys.modules, name, module)
        for package in ("torch_npu", "torch_npu.utils", "torch_npu.npu"):
            patched.setitem(sys.modules, package, ModuleType(package))
        yield


def as_the_reference(ours: dict[str, Any], epoch: int, wrap: Callable[[str], str]) -> dict[str, Any]:
    """One of our checkpoints in the reference's format."""
    return {
        "epoch": epoch,
        "arch": "alexnet",
        "state_dict": OrderedDict((wrap(key), tensor) for key, tensor in ours["state_dict"].items()),
        "best_acc1": torch.tensor([12.5]),
        "optimizer": ours["optimizer"],
        "amp": OrderedDict(loss_scaler0={"loss_scale": 65536.0, "unskipped": 7}),
    }


def wrapped(key: str) -> str:
    return "module." + key


def partly_wrapped(key: str) -> str:
    """Names as of DataParallel over the features only, as in the example without --gpu."""
    return key.replace("features.", "features.module.")


@pytest.mark.parametrize(
    ("wrap", "zipped"), [(wrapped, True), (partly_wrapped, False), (str, False)]
)  # not zipped: as torch 1.5 wrote them
def test_its_checkpoints_evaluate_to_the_accuracy_of_their_weights(
    wrap: Callable[[str], str],
    zipped: bool,
    finished: tuple[Path, Path],
    raw: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    ours = checkpoint.load(finished[0] / "checkpoint_last.pt")
    path = tmp_path / "model_best.pth.tar"
    torch.save(as_the_reference(ours, 2, wrap), path, _use_new_zipfile_serialization=zipped)
    assert (
        in_process(raw, "--evaluate", "--resume", path, *SMALL, "--no-amp", "--set", f"run.out={tmp_path}")
        == 0
    )
    acc1 = json.loads((finished[0] / "report.json").read_text())["acc1"]
    assert f"[AVG-ACC] * Acc@1 {acc1:.3f}" in capsys.readouterr().out


@pytest.mark.usefixtures("torch_npu_saves")
def test_a_checkpoint_saved_from_npu_tensors_loads_without_torch_npu(tmp_path: Path) -> None:
    weights = AlexNet(CLASSES).state_dict()
    on_npu = {f"module.{key}": tensor.as_subclass(OnNpu) for key, tensor in weights.items()}
    best = torch.tensor([57.8]).as_subclass(OnNpu)
    torch.save(
        {"epoch": 90, "arch": "alexnet", "state_dict": on_npu, "best_acc1": best}, tmp_path / "npu.pth.tar"
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_npu"]:
        del sys.modules[
            name
        ]  # the fixture restores everything; undoing it here would leave the fakes to later tests
    loaded = checkpoint.load(tmp_path / "npu.pth.tar")
    assert loaded["epoch"] == 90 and float(loaded["best_acc1"]) == pytest.approx(57.8)
    assert all(torch.equal(loaded["state_dict"][key], weights[key]) for key in weights)
    assert {type(tensor) for tensor in loaded["state_dict"].values()} == {torch.Tensor}


def test_a_run_resumes_from_its_checkpoint_at_its_epoch_with_its_momenta(
    finished: tuple[Path, Path], raw: Path, tmp_path: Path, capsys: Any
) -> None:
    ours = checkpoint.load(finished[0] / "checkpoint_last.pt")
    losses = {}
    for name, saved in (
        ("ours", {**ours, "cursor": {"epoch": 1, "step": 0}}),
        ("theirs", as_the_reference(ours, 1, wrapped)),
    ):
        torch.save(saved, tmp_path / f"{name}.pt")
        arguments = [
            raw,
            *SMALL,
            "--no-amp",
            "--epochs=2",
            "--print-freq=1",
            "--resume",
            tmp_path / f"{name}.pt",
        ]
        sets = [f"run.out={tmp_path / name}", "checkpoint.every_epochs=0", "eval.every=0"]
        assert in_process(*arguments, *(text for key in sets for text in ("--set", key))) == 0
        lines = [
            json.loads(line) for line in (tmp_path / name / "1p" / "metrics.jsonl").read_text().splitlines()
        ]
        losses[name] = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses["theirs"] == losses["ours"] and len(losses["ours"]) == 3
    out = capsys.readouterr().out
    assert "a checkpoint of the reference, at epoch 1, with its momenta" in out


def test_momenta_that_are_not_sgds_start_from_zero(tmp_path: Path) -> None:
    from alexnet_fast.build import train_state
    from alexnet_fast.devices.registry import resolve

    precision = train_state(
        load(RECIPES / "1p.toml", ["model.num_classes=3"]), World(), resolve("cpu")
    ).precision
    saved = {
        "epoch": 4,
        "state_dict": AlexNet(CLASSES).state_dict(),
        "optimizer": {"state": {0: {"fused": 1}}},
    }
    torch.save(saved, tmp_path / "apex.pt")
    progress, has_momenta = import_reference.import_reference(
        checkpoint.load(tmp_path / "apex.pt"), precision
    )
    momenta = [state["momentum_buffer"] for state in precision.optimizer.state.values()]
    assert not has_momenta and len(momenta) == 16 and not any(momentum.any() for momentum in momenta)
    assert progress.cursor == {"epoch": 4, "step": 0} and progress.best is None


def test_ours_loads_in_torchvision(finished: tuple[Path, Path], require: Callable[[str], Any]) -> None:
    model = require("torchvision").models.alexnet(num_classes=CLASSES)
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        saved = torch.load(finished[0] / name, weights_only=True)
        model.load_state_dict(saved["state_dict"], strict=True)


# --- accuracy as the reference counts it


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "world_size", "full"),
    [(50, 4, 1, 8), (50, 4, 3, 8), (47, 5, 2, 5), (3, 2, 2, 4)],
)
def test_full_batches_count_the_same_samples_for_any_batch_and_ranks(
    num_samples: int, batch_size: int, world_size: int, full: int
) -> None:
    """Each rank is a thread that sums the values of all."""
    labels = torch.arange(num_samples) % 7
    logits = torch.randn(num_samples, 7, generator=torch.Generator().manual_seed(num_samples))
    values: list[Any] = [None] * world_size
    barrier = threading.Barrier(world_size, timeout=20)

    class Threaded(World):
        def all_reduce_sum(self, value: torch.Tensor) -> torch.Tensor:
            values[self.rank] = value.clone()
            barrier.wait()
            total = torch.stack(values).sum(0)
            barrier.wait()
            return total

    results: list[Any] = [None] * world_size

    def run(rank: int) -> None:
        share = DistributedBatchSampler(num_samples, batch_size, rank, world_size, drop_last=False)
        batches = [slice(*share.positions(step)) for step in range(share.steps)]
        results[rank] = evaluate(
            lambda images: images, ((logits[batch], labels[batch]) for batch in batches), num_samples,
            Threaded(rank, rank, world_size), torch.device("cpu"), batch_size=batch_size, full_batches_of=full,
        )  # fmt: skip

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    whole = num_samples - num_samples % full
    right = logits.argmax(1) == labels
    assert results[0].counted["top1"] == right.sum() and results[0].samples == num_samples
    if whole == 0:
        assert results[0].full_batches is None
    else:
        five = (logits.topk(5).indices == labels[:, None]).any(1)
        counts = [int(right[:whole].sum()), int(five[:whole].sum())]
        assert results[0].full_batches == Score.of(Classification(), whole, counts)


def test_flags_that_select_a_missing_recipe_say_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1p.toml, which these flags select, does not exist"):
        modelzoo_flags.choose_recipe(command.parse(["--lr", "1"]), tmp_path)


def test_paths_of_the_references_flags_may_start_at_home_and_are_not_empty(
    betons: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(betons.parent))
    recipe, _ = resolved("--data_path=~/betons", "--device", "cpu", "--set", "run.out=~/runs")
    assert (recipe.data.train, recipe.run.out) == (f"{betons}/train.beton", f"{betons.parent}/runs")
    recipe, _ = resolved(betons / "../betons", "--device", "cpu", "--resume", "~/last.pt")
    assert command.parse(["a.toml", "--resume=~/last.pt"]).resume == f"{betons.parent}/last.pt"
    assert command.parse(["a.toml", "--resume=./auto"]).resume == "./auto", "a file of that name"
    for flags in (("--data_path", ""), ("--beton-dir", ""), ("--resume", ""), ("",)):
        assert "an empty path: give one" in refused(capsys, *flags)
    assert "a user that this machine does not know" in refused(capsys, "--data_path=~no-such-user-here/x")


def test_a_data_path_that_a_recipe_cannot_hold_is_refused_before_packing(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    for split in ("train", "val"):
        (folder / split / "a").mkdir(parents=True)
    (tmp_path / "utf-8").symlink_to(folder)
    assert r"caf\udce9 is not UTF-8, and a recipe" in refused(
        capsys, "--data_path", folder, "--device", "cpu"
    )
    given = ("--data_path", tmp_path / "utf-8", "--beton-dir", folder / "b", "--device", "cpu")
    assert "--beton-dir" in refused(capsys, *given)
    assert "a contains no image" in refused(capsys, "--data_path", tmp_path / "utf-8", "--device", "cpu")


def test_a_path_with_odd_characters_is_kept_exactly(tmp_path: Path) -> None:
    folder = tmp_path / 'a"\x7f\n\\'
    folder.mkdir()
    (folder / "train.beton").touch()
    recipe, _ = resolved("--data_path", folder, "--device", "cpu")
    assert recipe.data.train == f"{folder}/train.beton"
