"""What long work speaks on."""

from __future__ import annotations

from typing import Any

from rich.console import Console as Plain

from ..errors import escaped_lines, mute


class Console(Plain):
    """A console for which no work ends: where it cannot be written to (its reader is gone, its disk full), it is quiet from then on.

    Text is printed as it stands, but for what a terminal would obey: a name with [bold] or :cat: in it is no markup.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def print(self, *objects: Any, **style: Any) -> None:
        texts = [escaped_lines(each) if isinstance(each, str) else each for each in objects]
        try:
            super().print(*texts, **style)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        mute(self.file)
