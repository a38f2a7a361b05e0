"""What long work speaks on."""

from __future__ import annotations

from typing import Any

from rich.console import Console as Plain

from ..errors import mute


class Console(Plain):
    """A console for which no work ends: where it cannot be written to (its reader is gone, its disk full), it is quiet from then on."""

    def print(self, *objects: Any, **style: Any) -> None:
        try:
            super().print(*objects, **style)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        mute(self.file)
