"""The console on which long work prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console as Plain

from ..errors import escaped_lines, mute


class Console(Plain):
    """A console that never stops the work: once it cannot be written (reader gone, disk full), it becomes quiet.

    Text is printed as it is (a name with [bold] or :cat: in it is no markup), but control characters are escaped.
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
