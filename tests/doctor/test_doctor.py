"""The doctor reports what the machine gives, and each fault that is planted, with its remedy."""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alexnet_fast.common import page_cache
from alexnet_fast.common.machine import Machine
from alexnet_fast.common.text import size
from alexnet_fast.doctor import accelerators, finding, host, probe, recipe_checks, software, text_report
from alexnet_fast.doctor.accelerators import Torch
from alexnet_fast.doctor.finding import Finding
from alexnet_fast.models import MODELS
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import validate
from betons import jpeg, picture, write
from components import ROOT

HCCL = "libhccl.so: cannot open shared object file: No such file or directory"
CPU_TORCH = Torch({"version": "2.13.0", "cuda": None}, {"kind": None, "names": []})
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def doctor(
    *arguments: object, env: dict[str, str] | None = None, before: Callable[[], None] | None = None
) -> tuple[int, dict[str, Finding]]:
    """Exit code and findings of the command in its own process, in which `before` has planted something."""
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_fast.doctor", "--json", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=before,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {each["name"]: Finding(**each) for each in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def here() -> dict[str, Finding]:
    """What the doctor reports of this machine as it is."""
    return doctor()[1]


def test_cores_are_what_nproc_says(here: dict[str, Finding]) -> None:
    env = {
        name: value for name, value in os.environ.items() if not name.startswith("OMP_")
    }  # nproc obeys them
    nproc = int(subprocess.run(["nproc"], env=env, capture_output=True, text=True, check=True).stdout)
    quota = Machine().quota
    usable = nproc if quota is None else max(1, min(nproc, int(quota.cores)))
    assert here["cores"].found.startswith(f"{usable} of ")


def test_memory_is_what_free_and_the_cgroup_say(here: dict[str, Finding]) -> None:
    lines = subprocess.run(["free", "-b"], capture_output=True, text=True, check=True).stdout.splitlines()
    total = int(lines[1].split()[1])
    limits = [total]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(path).exists() and (text := Path(path).read_text().strip()) != "max":
            limits.append(int(text))
    assert Machine().memory["MemTotal"] == total
    assert Machine().memory_bytes <= min(limits)
    assert f"of {size(Machine().memory_bytes)} available" in here["memory"].found


def test_the_libraries_of_this_machine_are_named(here: dict[str, Finding]) -> None:
    import numba
    import PIL
    import torch

    assert here["torch"].found.startswith(torch.__version__)
    assert f"numba {numba.__version__}" in here["compiled kernels"].found
    assert PIL.__version__ in here["Pillow"].found


def test_the_decoders_library_is_found_with_its_simd(here: dict[str, Finding], require: Any) -> None:
    require("turbojpeg")
    codec = here["libjpeg-turbo"]
    assert codec.status == "ok"
    assert "SIMD at work" in codec.found
    path = codec.found.split(", ")[1].partition(";")[0]
    assert Path(path).is_file() and "turbojpeg" in path


def test_planted_faults_are_each_named_with_a_remedy(tmp_path: Path) -> None:
    def plant() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 * KIB, 64 * KIB))
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        ctypes.CDLL(None).prctl(24, 14)  # drop CAP_IPC_LOCK, so that the limit binds root too

    nowhere = str(tmp_path / "libturbojpeg.so.0")
    code, found = doctor(env={software.TURBOJPEG_ENVIRONMENT: nowhere}, before=plant)

    assert code == 1
    codec = found["libjpeg-turbo"]
    assert codec.status == "fault"
    assert nowhere in codec.found and f"unset {software.TURBOJPEG_ENVIRONMENT}" in codec.remedy
    locked = found["locked memory"]
    assert locked.status == "warning"
    assert "limit 64 KiB" in locked.found and "--ulimit memlock=-1" in locked.remedy
    files = found["open files"]
    assert (files.status, files.remedy) == ("warning", "ulimit -n 256")
    cores = found["cores"]
    assert cores.status == "warning"
    assert cores.found.startswith("1 of ") and "share one core" in cores.found
    if (os.cpu_count() or 1) > 1:
        assert "affinity mask holds 1" in cores.found and "taskset" in cores.remedy
    assert found["torch"].status == "ok"  # what is not broken is still checked


def test_torch_npu_without_cann_is_a_fault_and_stops_nothing_else(tmp_path: Path) -> None:
    package, described = tmp_path / "torch_npu", tmp_path / "torch_npu-2.13.0.dist-info"
    package.mkdir()
    described.mkdir()
    (package / "__init__.py").write_text(f"raise OSError({HCCL!r})\n")
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-npu\nVersion: 2.13.0\n")
    (described / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    code, found = doctor(env={"PYTHONPATH": path, probe.AUTOLOAD: "1"})

    assert code == 1
    npu = found["torch_npu, CANN"]
    assert npu.status == "fault"
    assert "torch_npu 2.13.0, no CANN toolkit" in npu.found and HCCL in npu.found
    assert "set_env.sh" in npu.remedy and f"{probe.AUTOLOAD}=0" in npu.remedy
    assert found["torch"].status == "ok"
    assert "torch_npu" in found["accelerators"].remedy
    assert found["compiled kernels"].status != "fault"


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "100000 100000"},
        {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
        {"slice/cpu.max": "max 100000", "slice/job/cpu.max": "150000 100000"},
    ],
    ids=["version 2", "version 1", "a job in a slice"],
)
def test_a_cgroups_cpu_quota_is_a_warning_with_its_remedy(files: dict[str, str], tmp_path: Path) -> None:
    _write(tmp_path / "cgroup", files)
    _write(tmp_path / "proc", {"self/cgroup": "0::/slice/job\n"})
    here = Machine(cgroup=tmp_path / "cgroup", proc=tmp_path / "proc")

    if len(here.affinity) < 2:
        pytest.skip("one core alone leaves a quota nothing to cut")
    found = host.cores(here)

    assert here.cores == 1
    assert found.status == "warning"
    assert found.found.startswith("1 of ") and "CPU quota is 1" in found.found
    assert "docker run --cpus" in found.remedy


def test_a_quota_that_stops_its_processes_is_reported_with_how_often(tmp_path: Path) -> None:
    _write(tmp_path, {"cpu.max": "50000 100000", "cpu.stat": "nr_periods 200\nnr_throttled 50\n"})
    assert "0.5 cores, stopped in 25% of its periods" in host.cores(Machine(cgroup=tmp_path)).found


def test_a_cgroups_memory_limit_counts_and_its_page_cache_does_not(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "memory.max": str(2 * GIB),
            "memory.current": str(GIB + GIB // 2),
            "memory.stat": f"anon 1\ninactive_file {GIB}\n",
        },
    )
    found = host.memory(Machine(cgroup=tmp_path))
    assert found.status == "warning"
    assert found.found.startswith("1.5 GiB of 2 GiB available (the cgroup's limit")
    assert "raise the container's limit" in found.remedy


def test_cores_on_another_node_than_the_cards_are_a_warning(tmp_path: Path) -> None:
    mine = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    _write(tmp_path / "system", {"node/node0/cpulist": mine, "node/node1/cpulist": "1000-1003"})
    _write(tmp_path / "pci/0000:c1:00.0", {"vendor": "0x19e5\n", "class": "0x120000\n", "numa_node": "1\n"})
    _write(tmp_path / "pci/0000:c2:00.0", {"vendor": "0x19e5\n", "class": "0x020000\n", "numa_node": "0\n"})
    found = host.numa(Machine(system=tmp_path / "system", pci=tmp_path / "pci"))
    assert found.status == "warning"
    assert "cores are on node 0, the cards on node 1" in found.found
    assert "--cpunodebind=1" in found.remedy


def test_an_npu_without_torch_npu_is_a_fault(tmp_path: Path) -> None:
    _write(tmp_path / "0000:c1:00.0", {"vendor": "0x19e5\n", "class": "0x120000\n", "numa_node": "-1\n"})
    found = accelerators.torch_npu(CPU_TORCH, Machine(pci=tmp_path))
    if "not installed" not in found.found:
        pytest.skip("torch_npu is installed")
    assert (found.status, found.remedy) == ("fault", "pip install 'torch-npu==2.13.*'")


def test_a_card_that_this_torch_cannot_use_says_why(tmp_path: Path) -> None:
    _write(tmp_path / "0000:c1:00.0", {"vendor": "0x10de\n", "class": "0x030200\n", "numa_node": "0\n"})
    here = Machine(pci=tmp_path)
    found = accelerators.cards(CPU_TORCH, here)
    assert (found.status, found.remedy) == ("warning", "install a CUDA build of torch 2.13.0")
    build = {"version": "2.13.0", "cuda": "12.8"}
    trouble = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)"
    found = accelerators.cards(Torch(build, {"kind": None, "names": [], "trouble": trouble}), here)
    assert found.status == "fault"
    assert "1 x NVIDIA" in found.found and trouble in found.found and "nvidia-smi" in found.remedy


def test_simd_that_is_switched_off_is_a_warning(require: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    require("turbojpeg")
    monkeypatch.setenv("JSIMD_FORCENONE", "1")
    found = software.codec()
    assert (found.status, found.remedy) == ("warning", "unset JSIMD_FORCENONE")


def test_a_library_that_is_no_libturbojpeg_is_a_fault(require: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    require("turbojpeg")
    monkeypatch.setenv(software.TURBOJPEG_ENVIRONMENT, "libc.so.6")
    found = software.codec()
    assert found.status == "fault"
    assert "lacks tjInitDecompress" in found.found


def test_kernels_that_cannot_be_kept_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/nowhere")
    found = software.kernels()
    assert found.status == "warning"
    assert "/proc/nowhere" in found.found and "NUMBA_CACHE_DIR" in found.remedy


def test_a_library_that_crashes_its_process_stops_no_other_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, {"numba.py": f"import os\nos.kill(os.getpid(), {int(signal.SIGSEGV)})\n"})
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = finding.look("compiled kernels", software.kernels)
    assert found.status == "warning"
    assert "ended by SIGSEGV" in found.found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.toml"], "there is no recipe"),
        (["--set", "data.size=64"], "name a recipe"),
        (["recipes/tiny.toml", "--set", "data.sice=3"], "data.size"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], said: str, run_cli: Any
) -> None:
    done = run_cli("-m", "alexnet_fast.doctor", *arguments, "--json")
    assert (done.code, done.stdout) == (2, "")
    assert said in done.stderr and done.stderr.count("\n") == 1


def recipe(**sections: dict[str, Any]) -> Recipe:
    return validate(sections)


def examined(name: str, path: Path, asked: Recipe, here: Machine | None = None) -> dict[str, Finding]:
    file = recipe_checks.File(name, path, asked.data.global_batch_size)
    use = recipe_checks.use_of(asked, CPU_TORCH)
    return {each.name: each for each in recipe_checks.examine_file(file, asked, use, here or Machine(), True)}


def test_a_recipes_file_is_reported_with_its_cache_and_its_disk(tiny_beton: Path) -> None:
    asked = recipe(model={"num_classes": 10}, data={"global_batch_size": 64})
    found = examined("train", tiny_beton / "train.beton", asked)
    assert [each.status for each in found.values()] == ["ok"] * 3
    assert "200 samples, labels 0 to 9" in found["train set"].found
    assert re.match(r"\d+ % of it", found["train cache"].found)
    assert re.search(r"img/s from a cold cache|not measured", found["train disk"].found)


def test_a_model_of_many_more_classes_than_the_set_is_a_warning(tiny_beton: Path) -> None:
    asked = recipe(model={"num_classes": 1000}, data={"global_batch_size": 64})
    found = examined("train", tiny_beton / "train.beton", asked)["train set"]
    assert found.status == "warning" and "--set model.num_classes=10" in found.remedy


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"model": {"num_classes": 7}}, "--set model.num_classes=10"),
        ({"data": {"global_batch_size": 201}}, "--set data.global_batch_size=200"),
        ({"data": {"global_batch_size": 64}, "distributed": {"nproc": 3}}, "--set data.global_batch_size=66"),
    ],
    ids=["labels", "a batch larger than the set", "ranks that do not divide it"],
)
def test_a_file_that_does_not_fit_its_recipe_is_a_fault(change: dict, remedy: str, tiny_beton: Path) -> None:
    found = examined("train", tiny_beton / "train.beton", recipe(**change))["train set"]
    assert (found.status, found.remedy) == ("fault", remedy)


@pytest.mark.parametrize(
    ("room", "remedy"), [(GIB, "cat "), (KIB, "local SSD")], ids=["it fits", "it does not fit"]
)
def test_a_disk_slower_than_the_cores_is_a_warning(
    room: int, remedy: str, tiny_beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Here(Machine):
        available_bytes = room

    monkeypatch.setattr(page_cache, "resident_share", lambda path: 0.0)
    monkeypatch.setattr(page_cache, "disk_rate", lambda path: page_cache.Rate(1e5, 10**5))
    asked = recipe(model={"num_classes": 10}, data={"global_batch_size": 64})
    found = examined("train", tiny_beton / "train.beton", asked, Here())["train disk"]
    assert found.status == "warning"
    assert "can take" in found.found and remedy in found.remedy


def test_files_that_are_missing_or_cut_short_are_faults(tiny_beton: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.beton"
    cut.write_bytes((tiny_beton / "train.beton").read_bytes()[:100_000])
    for path in (cut, tmp_path / "missing.beton"):
        (found,) = examined("train", path, recipe()).values()
        assert found.status == "fault"
        assert str(path) in found.found and "pack" in found.remedy


def test_a_file_of_several_ints_is_a_fault_until_the_recipe_names_the_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 4, [9, 9, 9, 9], [("fine", [0, 1, 2, 3])])
    asked = {"model": {"num_classes": 4}, "data": {"global_batch_size": 2}}
    (found,) = examined("train", path, recipe(**asked)).values()
    assert (
        found.status == "fault" and "has 2 int fields" in found.found and "data.label_field" in found.remedy
    )
    asked["data"] |= {"label_field": "fine"}
    assert "labels 0 to 3" in examined("train", path, recipe(**asked))["train set"].found


def test_a_file_of_floats_is_fine_for_regression_and_a_fault_for_classification(tmp_path: Path) -> None:
    images = [jpeg(picture(64, 48))] * 4
    path = write(tmp_path / "a.beton", images, [0.5, -1.0, 2.0, 1.0])
    data = {"train": str(path), "val": str(path), "global_batch_size": 2}
    asked = {"model": {"task": "regression", "num_classes": 1}, "data": data}
    found = examined("train", path, recipe(**asked))["train set"]
    assert found.status == "ok" and "4 samples, labels -1 to 2" in found.found
    assert recipe_checks.classes(recipe(**asked), recipe_checks.use_of(recipe(**asked), CPU_TORCH)) == []
    for model, remedy in (
        ({"num_classes": 4}, "--set model.task=regression --set model.num_classes=1"),
        ({"task": "regression", "num_classes": 4}, "--set model.num_classes=1"),
    ):
        asked["model"] = model
        found = examined("train", path, recipe(**asked))["train set"]
        assert (found.status, found.remedy) == ("fault", remedy)
        assert recipe_checks.classes(recipe(**asked), recipe_checks.use_of(recipe(**asked), CPU_TORCH)) == []
    asked["model"] = {"task": "regression", "num_classes": 1}
    for bad in (math.nan, 1e39):
        path = write(tmp_path / "a.beton", images, [0.5, -1.0, bad, 1.0])
        found = examined("train", path, recipe(**asked))["train set"]
        assert found.status == "fault" and f"a label {bad} (sample 2)" in found.found


def test_labels_that_mean_something_else_in_the_two_sets_are_a_fault(tmp_path: Path) -> None:
    def classes(val_names: list[str] | None, labels: list[int]) -> list[Finding]:
        for name, names, values in (("train", ["ant", "bee", "cat"], [0, 1, 2]), ("val", val_names, labels)):
            path = write(tmp_path / f"{name}.beton", [jpeg(picture(64, 48))] * len(values), values)
            path.with_name(f"{path.name}.json").write_text(json.dumps({"classes": names}))
        betons = {name: str(tmp_path / f"{name}.beton") for name in ("train", "val")}
        asked = recipe(data={**betons, "global_batch_size": 1}, model={"num_classes": 3})
        return recipe_checks.classes(asked, recipe_checks.use_of(asked, CPU_TORCH))

    (found,) = classes(["ant", "cat"], [0, 1])
    assert (
        found.status == "fault" and "label 1 is 'cat' in" in found.found and "train/ and val/" in found.remedy
    )
    (found,) = classes(None, [0, 1])
    assert found.status == "warning" and "no class names show" in found.found
    (found,) = classes(None, [0, 1, 2])
    assert found == finding.ok("classes", "3 in each set; no class names show whether labels mean the same")
    (found,) = classes(["ant", "bee"], [0, 1])
    assert found == finding.ok("classes", "each label means the same in both sets, of 3")
    (tmp_path / "val.beton").write_bytes(b"x")  # which another finding reports
    asked = recipe(data={"train": str(tmp_path / "train.beton"), "val": str(tmp_path / "val.beton")})
    assert recipe_checks.classes(asked, recipe_checks.use_of(asked, CPU_TORCH)) == []
    assert recipe_checks.classes(recipe(eval={"every": 0}), recipe_checks.use_of(asked, CPU_TORCH)) == []


def test_what_a_recipe_needs_is_compared_with_what_there_is() -> None:
    cards = Torch(CPU_TORCH.build, {"kind": "npu", "names": ["Ascend910"] * 2})
    asked = recipe(distributed={"nproc": 8}, data={"global_batch_size": 1024, "batches_ahead": 8})
    use = recipe_checks.use_of(asked, cards)

    found = recipe_checks.device(asked, use, cards)
    assert (found.status, found.remedy) == ("fault", "--set distributed.nproc=2")

    here = Machine()
    here.quota = None
    found = recipe_checks.cores(asked, use._replace(nproc=len(here.affinity) + 1), here)
    assert found.status == "warning" and "ranks take turns" in found.found

    cuda = recipe(run={"device": "cuda"})
    found = recipe_checks.device(cuda, recipe_checks.use_of(cuda, CPU_TORCH), CPU_TORCH)
    assert found.status == "fault" and "--set run.device=cpu" in found.remedy


class FewCores(Machine):
    cores = 3


def cores_of(model: str, ranks: int = 1, machine: Machine | None = None) -> Finding:
    """What the doctor says of a machine's cores for a recipe that trains this model on cards."""
    dropout = 0.5 if model == "alexnet" else 0.0
    asked = recipe(run={"device": "cuda"}, model={"name": model, "dropout": dropout})
    use = recipe_checks.use_of(asked, CPU_TORCH)._replace(nproc=ranks)
    return recipe_checks.cores(asked, use, machine or FewCores())


def test_cores_are_compared_with_what_a_card_trains_of_the_recipes_own_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = cores_of("alexnet")
    assert few.status == "warning"
    assert (
        "decode some 7,500 images/s of 500 px" in few.found
        and "trains AlexNet on 10,000 or more" in few.found
    )
    monkeypatch.setattr(FewCores, "cores", 4)
    assert cores_of("alexnet") == finding.ok("cores a rank", "4 a rank (4 for 1 rank)")
    assert cores_of("alexnet", ranks=2).status == "warning"
    slow = replace(MODELS["resnet18"], card_img_per_s=2_000)
    monkeypatch.setitem(MODELS, "resnet18", slow)
    assert cores_of("resnet18", ranks=2) == finding.ok("cores a rank", "2 a rank (4 for 2 ranks)")
    monkeypatch.setitem(MODELS, "resnet18", replace(slow, card_img_per_s=12_000))
    assert "trains ResNet-18 on 12,000 or more" in cores_of("resnet18").found


def test_for_a_model_that_nobody_has_measured_on_a_card_the_doctor_says_so_and_judges_no_cores() -> None:
    found = cores_of("resnet18")
    assert MODELS["resnet18"].card_img_per_s is None
    assert found.status == "ok" and "AlexNet" not in found.found
    assert "there is no figure for how fast an accelerator trains ResNet-18" in found.found
    assert "--profile" in found.found


def test_a_disk_is_compared_with_what_the_cores_train_of_the_recipes_own_model(
    tiny_beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk(**speeds: float | None) -> Finding:
        monkeypatch.setitem(MODELS, "resnet18", replace(MODELS["resnet18"], **speeds))
        asked = recipe(
            model={"name": "resnet18", "dropout": 0.0, "num_classes": 10}, data={"global_batch_size": 64}
        )
        return examined("train", tiny_beton / "train.beton", asked, FewCores())["train disk"]

    monkeypatch.setattr(page_cache, "resident_share", lambda path: 0.0)
    monkeypatch.setattr(page_cache, "disk_rate", lambda path: page_cache.Rate(1e5, 10**5))
    found = disk(core_img_per_s=100.0)
    assert found.status == "warning" and found.found.endswith("3 cores can take 300 img/s")
    assert disk(core_img_per_s=0.1).status == "ok"
    found = disk(core_img_per_s=None)
    assert found.status == "warning" and "no figure for how fast they train ResNet-18" in found.found


@pytest.mark.parametrize(
    ("checkpoints", "only", "is_wanted"),
    [
        ({"every_epochs": 1}, False, True),
        ({"every_epochs": 0, "every_steps": 100}, False, True),
        ({"every_epochs": 0, "every_steps": 0}, False, False),
        ({"every_epochs": 1}, True, False),
    ],
)
def test_room_for_checkpoints_is_needed_if_a_run_will_save_any(
    checkpoints: dict[str, int],
    only: bool,
    is_wanted: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = SimpleNamespace(f_frsize=1, f_bavail=GIB)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    asked = recipe(run={"out": str(tmp_path)}, checkpoint=checkpoints, eval={"only": only})
    found = recipe_checks.results(asked)
    assert (found.status, "checkpoints take 1.8 GiB more" in found.found) == (
        ("fault", True) if is_wanted else ("ok", False)
    )


def test_batches_are_compared_with_memory_and_the_locked_memory_limit() -> None:
    class Small(Machine):
        memory_bytes, available_bytes, lockable_bytes = 64 * GIB, 1 * GIB, 64 * KIB

    asked = recipe(data={"global_batch_size": 1024}, distributed={"nproc": 8}, run={"device": "npu"})
    use = recipe_checks.use_of(asked, CPU_TORCH)
    expected, pinned = recipe_checks.memory(asked, use, Small())
    slots, evaluation_too = 3 + 2, 2
    ring = 1024 * (3 * 224 * 224 + 16) * slots * evaluation_too
    assert size(ring) in expected.found and expected.status == "warning"
    assert pinned.status == "warning"
    assert size(ring) in pinned.found and "ulimit -l unlimited" in pinned.remedy
    oblong = recipe(
        **{**asked.model_dump(mode="json"), "data": {"global_batch_size": 1024, "size": [96, 448]}}
    )
    found = next(iter(recipe_checks.memory(oblong, use, Small()))).found
    assert size(1024 * (3 * 96 * 448 + 16) * slots * evaluation_too) in found
    Small.memory_bytes = 2 * GIB
    assert next(recipe_checks.memory(asked, use, Small())).status == "fault"


def test_what_a_checkpoint_holds_for_each_parameter_and_the_parts_of_a_batch_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_frsize=1, f_bavail=0))
    found = [
        recipe_checks.results(recipe(run={"out": str(tmp_path)}, optim=optim)).found
        for optim in ({}, {"ema": 0.9}, {"name": "adamw", "ema": 0.9})
    ]
    takes = [float(text.rpartition("take ")[2].partition(" GiB")[0]) for text in found]
    assert takes[1] / takes[0] == pytest.approx(3 / 2, rel=0.05)
    assert takes[2] / takes[0] == pytest.approx(4 / 2, rel=0.05)

    class Large(Machine):
        memory_bytes, available_bytes = 64 * GIB, 64 * GIB

    def memory(**sections: Any) -> str:
        asked = recipe(
            run={"device": "cpu"}, data={"global_batch_size": 512, "size": [[0, 64], [1, 224]]}, **sections
        )
        return next(recipe_checks.memory(asked, recipe_checks.use_of(asked, CPU_TORCH), Large())).found

    whole, parts = memory(), memory(schedule={"accumulate": 4})
    freed = 384 * 224**2 * 80
    expected = [float(text.removeprefix("about ").partition(" GiB")[0]) for text in (whole, parts)]
    assert expected[0] - expected[1] == pytest.approx(freed / GIB, abs=0.1)
    assert "libraries, but not the model: there are no figures for vgg11" in memory(
        model={"name": "vgg11", "dropout": 0.0}
    )


def drop(path: Path) -> None:
    """Take a file out of the page cache, if that can be done."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    if page_cache.resident_share(path) > 0:
        pytest.skip("this file system keeps its files in memory")


# A machine short of memory may drop some of a file's pages at any time.
def test_looking_at_a_file_leaves_it_in_or_out_of_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cache, "BUDGET_S", 600.0)
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 * MIB))
    assert page_cache.resident_share(path) > 0.95
    page_cache.disk_rate(path)
    assert page_cache.resident_share(path) > 0.95  # the user's warm file is still warm

    drop(path)
    rate = page_cache.disk_rate(path)
    assert rate is not None and rate.read_bytes == 8 * MIB
    assert page_cache.resident_share(path) < 0.05


def test_where_mincore_does_not_report_it_touched_pages_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 * MIB))
    drop(path)
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.read(6 * MIB)
    told = page_cache.resident_share(path)
    assert 0.7 < told < 0.8
    monkeypatch.setattr(page_cache, "_may_know", lambda path: False)
    monkeypatch.setattr(page_cache, "BUDGET_S", 600.0)
    assert page_cache.resident_share(path) == pytest.approx(told, abs=0.12)


LENGTHS = sorted(
    {
        max(0, blocks * page_cache.BLOCK + more)
        for blocks in (0, 1, 2, 31, 32, 33, 64)  # 32 fill a window
        for more in (
            -page_cache.PAGE - 1,
            -page_cache.PAGE,
            1 - page_cache.PAGE,
            -1,
            0,
            1,
            page_cache.PAGE,
            70_000,
        )
    }
)


@pytest.mark.parametrize("length", LENGTHS)
def test_of_a_file_of_any_length_it_is_known_which_pages_and_blocks_are_cached(
    tmp_path: Path, length: int
) -> None:
    """Also of one whose last, partly filled page would end another block."""
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, length)
    pages = -(-length // page_cache.PAGE)
    if pages and page_cache.resident_share(path) > 0:
        pytest.skip("this file system keeps its files in memory")
    read = sorted({page for page in (0, 1, 40, 1023, 1024, pages - 2, pages - 1) if 0 <= page < pages})
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in read:
            os.pread(file.fileno(), 1, page * page_cache.PAGE)

    assert page_cache.resident_share(path) == (pytest.approx(len(read) / pages) if pages else 1)
    expected = [page * page_cache.PAGE // page_cache.BLOCK for page in read]
    whole = length // page_cache.BLOCK
    assert set(np.flatnonzero(page_cache._cached_blocks(path, length))) == {k for k in expected if k < whole}
    rate = page_cache.disk_rate(path)
    assert rate is None or 0 < rate.read_bytes <= whole * page_cache.BLOCK


@pytest.mark.parametrize("now", [0, 5, 3 * MIB, 5 * MIB])
def test_a_file_whose_length_has_changed_is_examined_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * MIB))
    os.truncate(path, now)
    cached = page_cache._cached_blocks(path, 4 * MIB)
    assert len(cached) == 4 * MIB // page_cache.BLOCK
    monkeypatch.setattr(page_cache, "_may_know", lambda path: False)
    assert 0 <= page_cache.resident_share(path) <= 1


def test_pages_beyond_the_end_of_a_file_that_is_cut_short_meanwhile_are_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To touch one would end the process by SIGBUS."""
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * MIB))

    def cut(pages: range, count: int) -> list[int]:
        os.truncate(path, 5)
        return list(pages)

    monkeypatch.setattr(page_cache.random, "sample", cut)
    monkeypatch.setattr(page_cache, "_may_know", lambda path: False)
    assert page_cache.resident_share(path) == 1  # of its one page


def test_a_file_system_without_direct_reads_gets_its_pages_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cache, "_reads_directly", lambda descriptor: False)
    monkeypatch.setattr(page_cache, "BUDGET_S", 600.0)
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 * MIB))
    page_cache.disk_rate(path)  # cached blocks give no figure, and are not dropped to get one
    assert page_cache.resident_share(path) > 0.95
    drop(path)
    rate = page_cache.disk_rate(path)
    assert rate is not None and rate.read_bytes == 8 * MIB
    assert page_cache.resident_share(path) < 0.1


def test_the_report_is_readable_at_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    findings = [
        finding.ok("cores", "2 of 2 processors can be kept busy"),
        finding.fault("libjpeg-turbo", "libturbojpeg was not found", f"install it: {software.INSTALL_CODEC}"),
    ]
    text_report.write(findings, sys.stdout)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"^fault +libjpeg-turbo  libturbojpeg was not found$", text, re.MULTILINE)
    assert "-> install it" in text
    assert text.endswith("1 fault; '->' says what to do.\n")


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
