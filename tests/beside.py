"""Long commands that run concurrently with the first tests, one after another, on the core that those leave idle.

The command of a test or module that is marked ``beside(COMMAND)`` starts before the session's first test.  The test itself
runs last, and calls ``COMMAND.finished()``.  The commands take about two and a half minutes; the suite took eleven to
thirteen on two cores.

A separate process runs them.  It was a thread once: then it saw the temporary folder, the environment and the functions
that the current test had changed for itself, and left its files where that test counted its own.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import command_line
from command_line import Finished
from components import ROOT

LONGEST_S = 3600


class Beside:
    """A command line of this Python, run once a session.

    Args:
        arguments: called with the command's own folder, returns the command line; may skip or fail for a missing component.
        env: variables that are changed for it; None removes one.
    """

    folder: Path
    runner: subprocess.Popen[bytes] | None = None

    def __init__(
        self, arguments: Callable[[Path], Iterable[object]], env: dict[str, str | None] | None = None
    ) -> None:
        self._arguments, self._env = arguments, env
        self._refusal: BaseException | None = None

    def line(self) -> str:
        """Make its folder; returns the shell lines that run it, empty where it cannot run here."""
        self._kept = tempfile.TemporaryDirectory()  # as long as this
        self.folder = self._left("own")
        self.folder.mkdir()
        try:
            command = command_line.of(*self._arguments(self.folder))
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as refusal:
            self._refusal = refusal
            return ""
        variables = command_line.variables(self._env)
        gone = [word for name, value in variables.items() if value is None for word in ("-u", name)]
        given = [f"{name}={value}" for name, value in variables.items() if value is not None]
        out, error, code = (shlex.quote(str(self._left(name))) for name in ("stdout", "stderr", "code"))
        return (
            f"{shlex.join(['env', *gone, *given, *command])} >{out} 2>{error}\n"
            f"echo $? >{code}.part && mv {code}.part {code}\n"
        )

    def finished(self) -> Finished:
        """Wait for its end; the exit code is 128 + N after signal N.  Raises the error that kept it from running.

        Where no test was marked with it, it starts now.
        """
        if self.runner is None and self._refusal is None:
            begin([self])
        if self._refusal is not None:
            raise self._refusal
        assert self.runner is not None
        deadline = time.monotonic() + LONGEST_S
        while not self._left("code").exists():
            ended = self.runner.poll() is not None and not self._left("code").exists()
            assert not ended, "the process that runs the commands ended before this one"
            assert time.monotonic() < deadline, f"it has not ended in {LONGEST_S} s"
            time.sleep(0.05)
        code, out, error = (self._left(name).read_text() for name in ("code", "stdout", "stderr"))
        return Finished(int(code), out, error)

    def report(self, name: str) -> Any:
        """The JSON that it has written into its folder; it must have succeeded."""
        finished = self.finished()
        assert finished.code == 0, finished.stderr
        return json.loads((self.folder / name).read_text())

    def _left(self, name: str) -> Path:
        return Path(self._kept.name, name)


_runners: list[subprocess.Popen[bytes]] = []


def marked(items: Iterable[pytest.Item]) -> list[Beside]:
    """The commands with which tests are marked."""
    return list(dict.fromkeys(marker.args[0] for item in items for marker in item.iter_markers("beside")))


def begin(commands: list[Beside]) -> None:
    """Start running them one after another, in the background; none starts after this process has ended."""
    if not (lines := [line for command in commands if (line := command.line())]):
        return
    script = "".join(f"kill -0 {os.getpid()} || exit\n{line}" for line in lines)
    quiet = subprocess.DEVNULL
    runner = subprocess.Popen(
        ["sh", "-c", script], cwd=ROOT, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
    )
    for command in commands:
        command.runner = runner
    _runners.append(runner)


def await_all() -> None:
    """Wait until nothing runs in the background, for tests that measure."""
    for runner in _runners:
        runner.wait()


def stop() -> None:
    """End the commands that still run, and all processes that they have started."""
    for runner in _runners:
        if runner.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(runner.pid, signal.SIGKILL)
    await_all()
