"""All questions in their order; the slow ones are asked concurrently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from ..common.machine import Machine
from ..errors import UserError
from . import accelerators, host, recipe_checks, software
from .accelerators import Torch
from .finding import Finding, fault, look
from .probe import NoAnswer

if TYPE_CHECKING:
    from ..recipe import Recipe

Probe = Callable[[], "Finding | list[Finding]"]


def examine(machine: Machine, path: str | None = None, overrides: Sequence[str] = ()) -> list[Finding]:
    """All findings about the machine and, if a recipe is given, about what it needs.

    Raises UserError for a recipe that is not valid.
    """
    recipe, trouble = _load(path, overrides) if path else (None, [])
    with ThreadPoolExecutor(3) as pool:
        torch = pool.submit(_torch)
        libraries = [
            pool.submit(look, name, probe)
            for name, probe in {
                "Python packages": software.packages,
                "libjpeg-turbo": software.codec,
                "compiled kernels": software.kernels,
                "Pillow": software.pillow,
                "FFCV": software.ffcv,
            }.items()
        ]
        findings = _all(
            {
                "cores": partial(host.cores, machine),
                "NUMA": partial(host.numa, machine),
                "memory": partial(host.memory, machine),
                "locked memory": partial(host.locked_memory, machine),
                "shared memory": partial(host.shared_memory, machine),
                "open files": partial(host.open_files, machine),
            }
        )
        findings += [finding for library in libraries for finding in library.result()]
        answers = torch.result()
    findings += _all(
        {
            "torch": partial(accelerators.torch_build, answers),
            "accelerators": partial(accelerators.cards, answers, machine),
            "torch_npu, CANN": partial(accelerators.torch_npu, answers, machine),
        }
    )
    return [*findings, *trouble, *(_recipe(recipe, answers, machine) if recipe else [])]


def _recipe(recipe: Recipe, torch: Torch, machine: Machine) -> list[Finding]:
    use = recipe_checks.use_of(recipe, torch)
    findings = _all(
        {
            "device": partial(recipe_checks.device, recipe, use, torch),
            "cores a rank": partial(recipe_checks.cores, recipe, use, machine),
            "memory to train": lambda: list(recipe_checks.memory(recipe, use, machine)),
            "results": partial(recipe_checks.results, recipe),
        }
    )
    disks: set[int] = set()
    for file in recipe_checks.files(recipe, use):
        try:
            disk = file.disk
        except (OSError, UserError):  # which its finding reports
            disk = -1
        reads_disk = disk not in disks  # each disk once
        disks.add(disk)

        def probe(file: recipe_checks.File = file, reads_disk: bool = reads_disk) -> list[Finding]:
            return list(recipe_checks.examine_file(file, recipe, use, machine, reads_disk))

        findings += look(file.name, probe)
    return [*findings, *look("classes", lambda: recipe_checks.classes(recipe, use))]


def _load(path: str, overrides: Sequence[str]) -> tuple[Recipe | None, list[Finding]]:
    try:
        from ..recipe_toml import load
    except ImportError as error:
        return None, [fault("recipe", f"cannot be read: {error}", "see the Python packages above")]
    return load(path, overrides), []


def _torch() -> Torch:
    try:
        return accelerators.ask_torch()
    except NoAnswer as error:
        silent = {"error": str(error), "module": None}
        return Torch(silent, silent)


def _all(probes: dict[str, Probe]) -> list[Finding]:
    return [finding for name, probe in probes.items() for finding in look(name, probe)]
