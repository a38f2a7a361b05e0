"""Run a file of cases, such as tests/accelerator_cases.py, on the stand-in NPU, once a session, and look up how each case went.

In a process of its own: an 'npu' would be every other test's accelerator too, since torch has one.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import suppress
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

import components

TESTS = components.ROOT / "tests"
MOST_S = 600


def names(file: str) -> list[str]:
    """The names of the cases in a file below tests/, without their parameters."""
    body = ast.parse((TESTS / file).read_text()).body
    functions = (node for node in body if isinstance(node, ast.FunctionDef))
    return [function.name for function in functions if function.name.startswith("test_")]


def check(file: str, name: str) -> None:
    """Pass, fail or skip as the case did, with all its parameters."""
    components.require("compiler")
    outcomes, output = _outcomes(file)
    if not outcomes[name]:
        pytest.fail(f"{name} did not end on the stand-in NPU:\n{output[-4000:]}", pytrace=False)
    for outcome in outcomes[name]:
        for fault in (*outcome.findall("failure"), *outcome.findall("error")):
            pytest.fail(f"{outcome.get('name')}:\n{fault.text}", pytrace=False)
        for skipped in outcome.findall("skipped"):
            pytest.skip(str(skipped.get("message")))


class _Running:
    """A file of cases, in a process of its own."""

    def __init__(self, file: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._report, self._output = Path(self._folder.name, "report.xml"), Path(self._folder.name, "output")
        to = [f"--junitxml={self._report}", f"--basetemp={self._folder.name}/tmp"]
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "standin", str(TESTS / file), *to],
                cwd=components.ROOT,
                env=os.environ | {"PYTHONPATH": str(TESTS)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def outcomes(self) -> tuple[defaultdict[str, list[ElementTree.Element]], str]:
        """How each case went, by its name, and what was printed: waits for the end."""
        self._process.wait(MOST_S)
        by_name: defaultdict[str, list[ElementTree.Element]] = defaultdict(list)
        if self._report.exists():
            for case in ElementTree.parse(self._report).iter("testcase"):
                by_name[str(case.get("name")).partition("[")[0]].append(case)
        return by_name, self._output.read_text()

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()


_running: dict[str, _Running] = {}


def begin(file: str) -> None:
    """Run the cases beside the tests that come before they are asked for."""
    if file not in _running:
        _running[file] = _Running(file)


def stop() -> None:
    """Nobody asks any more."""
    while _running:
        _running.popitem()[1].stop()


@cache
def _outcomes(file: str) -> tuple[defaultdict[str, list[ElementTree.Element]], str]:
    begin(file)
    return _running[file].outcomes()
