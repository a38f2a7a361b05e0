"""Long commands that run beside the first tests, one after another, on the core that those leave idle.

A test or module that is marked ``beside(COMMAND)`` has it begun before the session's first test, comes last itself, and
asks ``COMMAND.finished()``.  They are some two and a half minutes of a suite that took eleven to thirteen on two cores.

A process of its own runs them.  It was a thread once: it saw the temporary folder, the environment and the functions
that the test of that moment had changed for itself, and left its files where that test counted its own.
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
        arguments: given a folder of its own, the command line; may skip or fail for a component that is not here.
        env: variables that are changed for it; None takes one away.
    """

    folder: Path
    runner: subprocess.Popen[bytes] | None = None

    def __init__(
        self, arguments: Callable[[Path], Iterable[object]], env: dict[str, str | None] | None = None
    ) -> None:
        self._arguments, self._env = arguments, env
        self._refusal: BaseException | None = None

    def line(self) -> str:
        """Make its folder; returns the lines of shell that run it, none where it cannot run here."""
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
        """What became of it, a signal's number told as 128 more; waits for that, and raises what kept it from running.

        Where no test was marked with it, it begins now.
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
        """The JSON that it has written into its folder; it has to have ended well."""
        finished = self.finished()
        assert finished.code == 0, finished.stderr
        return json.loads((self.folder / name).read_text())

    def _left(self, name: str) -> Path:
        return Path(self._kept.name, name)


_runners: list[subprocess.Popen[bytes]] = []


def marked(items: Iterable[pytest.Item]) -> list[Beside]:
    """The commands that tests ask for."""
    return list(dict.fromkeys(marker.args[0] for item in items for marker in item.iter_markers("beside")))


def begin(commands: list[Beside]) -> None:
    """Run them one after another, beside whatever comes now; none begins once this process has gone."""
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
    """Nothing runs beside any more: for those who measure."""
    for runner in _runners:
        runner.wait()


def stop() -> None:
    """Nobody asks any more: end what runs beside, and all that it has started."""
    for runner in _runners:
        if runner.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(runner.pid, signal.SIGKILL)
    await_all()
