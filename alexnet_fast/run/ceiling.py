"""The ceiling of a run's speed: what a profile of the same recipe predicted on the same machine."""

from __future__ import annotations

import json
from typing import Any

from ..common.cpus import allowed_cores
from ..devices.cpu import processor_name
from ..devices.device import Device
from ..distributed.world import World
from ..recipe import Recipe
from ..recipe_toml import differences

PROFILE = "throughput.json"
FORMAT = 1
SETS_THE_SPEED = ("data.", "model.name", "model.task", "model.num_classes", "model.dropout", "precision.")
BUT_NOT = ("data.val", "data.on_error", "data.label_field")


def machine_of(device: Device, world: World) -> dict[str, Any]:
    """What identifies this machine: a profile of another machine does not apply."""
    return {
        "processor": processor_name(),
        "cores": (world.threads or allowed_cores()) * world.world_size,
        "device": device.name,
        "kind": device.kind,
        "ranks": world.world_size,
    }


def ceiling_img_per_s(recipe: Recipe, machine: dict[str, Any], file_bytes: int) -> float | None:
    """The img/s that the profile in the run's folder predicts; None where there is no profile of this recipe, machine and file.

    machine: as `machine_of` returns it.
    file_bytes: the size of the training set's file now; a profile of another file under the same name does not apply.
    """
    try:
        document = json.loads((recipe.folder / PROFILE).read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["machine"] != machine:
            return None
        if document["read"]["file_bytes"] != file_bytes:
            return None
        changed = differences(document["recipe"], recipe.model_dump(mode="json"))
        if any(name.startswith(SETS_THE_SPEED) and name not in BUT_NOT for name in changed):
            return None
        return float(document["verdict"]["later_epochs_img_per_s"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
