"""throughput.json: what a profile found, for people, for tools/plot_profile.py, and for later runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..common.files import write_text
from ..run.ceiling import FORMAT, PROFILE
from ..run.report import versions
from .prediction import Stages
from .stats import stored
from .verdict import Verdict

PICTURE, TIMELINE = "throughput.png", "timeline.json"


@dataclass(frozen=True)
class Profile:
    """One profile of a recipe on a machine."""

    stages: Stages
    verdict: Verdict
    machine: dict[str, Any]
    recipe: dict[str, Any]
    seconds: float

    def document(self) -> dict[str, Any]:
        """The content of throughput.json: a figure's name ends with its unit; a figure is the median, minimum (least) and maximum (most) of n windows."""
        return {
            "format": FORMAT,
            "name": self.recipe["run"]["name"],
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": self.seconds,
            "verdict": asdict(self.verdict),
            **stored(self.stages),
            "machine": self.machine,
            "versions": versions(),
            "recipe": self.recipe,
        }

    def write(self, folder: Path) -> None:
        write_text(folder / PROFILE, json.dumps(self.document(), indent=2) + "\n")
