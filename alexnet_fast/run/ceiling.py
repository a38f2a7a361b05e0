"""The speed that a profile of the same recipe found on the same machine: what a run is compared with."""

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
    """What a profile holds for: on another machine it is another."""
    return {
        "processor": processor_name(),
        "cores": (world.threads or allowed_cores()) * world.world_size,
        "device": device.name,
        "kind": device.kind,
        "ranks": world.world_size,
    }


def ceiling_img_per_s(recipe: Recipe, machine: dict[str, Any], file_bytes: int) -> float | None:
    """What this recipe could make on this machine by the profile in the run's folder; None where there is none that fits.

    file_bytes: of the training set now; a profile of another file under the same name tells nothing.
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
