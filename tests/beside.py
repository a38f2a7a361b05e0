"""Long commands that run beside the first tests, one after another, on the core that those leave idle.

A test or module that is marked ``beside(COMMAND)`` has it begun before the session's first test, comes last itself, and
asks ``COMMAND.finished()``.  Three minutes of a suite that took eleven to thirteen on two cores.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from components import ROOT

MOST_S = 600


class Finished(NamedTuple):
    """What a command left behind, and the folder that was its own."""

    code: int
    stdout: str
    stderr: str
    folder: Path


class Beside:
    """A command line of this Python, run once a session.

    Args:
        arguments: given a folder of its own, the command line; may skip or fail for a component that is not here.
        path: where Python looks for modules.
    """

    def __init__(self, arguments: Callable[[Path], Iterable[object]], path: Path = ROOT) -> None:
        self._arguments, self._path = arguments, path
        self._process: subprocess.Popen[bytes] | None = None
        self._ended, self._finished, self._error = threading.Event(), None, None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self) -> None:
        """Run it and wait for its end; whatever goes wrong is raised where it is asked for."""
        try:
            self._folder = tempfile.TemporaryDirectory()
            folder = Path(self._folder.name)
            self._finished = self._run(folder)
        except BaseException as error:  # pytest's skip and failure are no Exceptions
            self._error = error
        finally:
            self._ended.set()

    def _run(self, folder: Path) -> Finished:
        (folder / "own").mkdir()
        command = [sys.executable, *map(str, self._arguments(folder / "own"))]
        with open(folder / "stdout", "w") as out, open(folder / "stderr", "w") as error:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(self._path), "COLUMNS": "200"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                start_new_session=True,
            )
        code = self._process.wait(MOST_S)
        return Finished(
            code, (folder / "stdout").read_text(), (folder / "stderr").read_text(), folder / "own"
        )

    def finished(self) -> Finished:
        """What became of it; waits for that."""
        if self not in _begun:
            _begun.append(self)
            self.run()
        self._ended.wait()
        if self._error is not None:
            raise self._error
        assert self._finished is not None
        return self._finished

    def stop(self) -> None:
        """Kill it and what it has started, and remove its folder."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._folder is not None:
            self._folder.cleanup()


_begun: list[Beside] = []


def marked(items: Iterable[pytest.Item]) -> list[Beside]:
    """The commands that tests ask for."""
    return list(dict.fromkeys(marker.args[0] for item in items for marker in item.iter_markers("beside")))


def begin(commands: list[Beside]) -> None:
    """Run them one after another, beside whatever comes now."""
    _begun.extend(commands)

    def run() -> None:
        for command in commands:
            if _begun:  # else nobody asks any more
                command.run()

    threading.Thread(target=run, name="beside", daemon=True).start()


def await_all() -> None:
    """Nothing runs beside any more: for those who measure."""
    for command in _begun:
        command._ended.wait()


def stop() -> None:
    """Nobody asks any more."""
    stopped = _begun[:]
    _begun.clear()
    for command in stopped:
        command.stop()
