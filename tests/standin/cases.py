"""Run a file of cases, such as tests/accelerator_cases.py, on the stand-in NPU, once, and look up how each case went.

In a process of its own: an 'npu' would be every other test's accelerator too, since torch has one.
"""

from __future__ import annotations

import ast
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

import command_line
import components

TESTS = components.ROOT / "tests"
LONGEST_S = 1800


def names(file: str) -> list[str]:
    """The names of the cases in a file below tests/, without their parameters."""
    body = ast.parse((TESTS / file).read_text()).body
    functions = (node for node in body if isinstance(node, ast.FunctionDef))
    return [function.name for function in functions if function.name.startswith("test_")]


def check(file: str, name: str, only: tuple[str, ...] = ()) -> None:
    """Pass, fail or skip as the case did, with all its parameters.

    Args:
        only: the names of the cases to run, this one among them; none = all of the file.
    """
    components.require("compiler")
    outcomes, output = _outcomes(file, only)
    if not outcomes[name]:
        pytest.fail(f"{name} did not end on the stand-in NPU:\n{output[-4000:]}", pytrace=False)
    for outcome in outcomes[name]:
        for fault in (*outcome.findall("failure"), *outcome.findall("error")):
            pytest.fail(f"{outcome.get('name')}:\n{fault.text}", pytrace=False)
        for skipped in outcome.findall("skipped"):
            pytest.skip(str(skipped.get("message")))


@cache
def _outcomes(file: str, only: tuple[str, ...]) -> tuple[defaultdict[str, list[ElementTree.Element]], str]:
    """How each case went, by its name, and what was printed."""
    by_name: defaultdict[str, list[ElementTree.Element]] = defaultdict(list)
    cases = [f"{TESTS / file}::{name}" for name in only] or [TESTS / file]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        options = f"--junitxml={report}", f"--basetemp={folder}/tmp"
        started = command_line.start("-m", "standin", *cases, *options, env={"PYTHONPATH": str(TESTS)})
        done = command_line.finish(started, LONGEST_S)
        if report.exists():
            for case in ElementTree.parse(report).iter("testcase"):
                by_name[str(case.get("name")).partition("[")[0]].append(case)
    return by_name, done.stdout + done.stderr
