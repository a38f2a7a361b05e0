"""Long commands that run beside the first tests, one after another, on the core that those leave idle.

A test or module that is marked ``beside(COMMAND)`` has it begun before the session's first test, comes last itself, and
asks ``COMMAND.finished()``.  They are some two and a half minutes of a suite that took eleven to thirteen on two cores.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import command_line
from command_line import Finished


class Beside:
    """A command line of this Python, run once a session.

    Args:
        arguments: given a folder of its own, the command line; may skip or fail for a component that is not here.
        env: variables that are changed for it.
    """

    future: Future[Finished] | None = None
    folder: Path

    def __init__(
        self, arguments: Callable[[Path], Iterable[object]], env: dict[str, str | None] | None = None
    ) -> None:
        self._arguments, self._env = arguments, env
        self._process: subprocess.Popen[str] | None = None

    def run(self) -> Finished:
        self._kept = tempfile.TemporaryDirectory()  # as long as this
        self.folder = Path(self._kept.name)
        arguments = self._arguments(self.folder)
        self._process = command_line.start(*arguments, env=self._env, start_new_session=True)
        return command_line.finish(self._process, 3600)

    def finished(self) -> Finished:
        """What became of it; waits for that, and raises what went wrong."""
        if self.future is None:
            begin([self])
        assert self.future is not None
        return self.future.result()

    def report(self, name: str) -> Any:
        """The JSON that it has written into its folder; it has to have ended well."""
        finished = self.finished()
        assert finished.code == 0, finished.stderr
        return json.loads((self.folder / name).read_text())

    def kill(self) -> None:
        """End it and all that it has started."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


_begun: list[Beside] = []


def marked(items: Iterable[pytest.Item]) -> list[Beside]:
    """The commands that tests ask for."""
    return list(dict.fromkeys(marker.args[0] for item in items for marker in item.iter_markers("beside")))


def begin(commands: list[Beside]) -> None:
    """Run them one after another, beside whatever comes now."""
    lane = ThreadPoolExecutor(1, "beside")
    for command in commands:
        command.future = lane.submit(command.run)
    lane.shutdown(wait=False)
    _begun.extend(commands)


def await_all() -> None:
    """Nothing runs beside any more: for those who measure."""
    wait([command.future for command in _begun if command.future])


def stop() -> None:
    """Nobody asks any more."""
    for command in _begun:
        if command.future:
            command.future.cancel()
    for command in _begun:
        command.kill()
    await_all()
