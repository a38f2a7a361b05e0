"""Run a file of cases, such as tests/accelerator_cases.py, on the stand-in NPU, once a session, and look up how each case went.

In a process of its own: an 'npu' would be every other test's accelerator too, since torch has one.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from xml.etree import ElementTree

import pytest

import components
from beside import Beside

TESTS = components.ROOT / "tests"


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


@cache
def running(file: str) -> Beside:
    """The cases of a file, to mark tests with: begun before the first test."""
    options = "--junitxml={0}/report.xml", "--basetemp={0}/tmp"
    return Beside(
        lambda folder: ["-m", "standin", TESTS / file, *(option.format(folder) for option in options)],
        {"PYTHONPATH": str(TESTS)},
    )


@cache
def _outcomes(file: str) -> tuple[defaultdict[str, list[ElementTree.Element]], str]:
    """How each case went, by its name, and what was printed."""
    done = running(file).finished()
    by_name: defaultdict[str, list[ElementTree.Element]] = defaultdict(list)
    if (report := running(file).folder / "report.xml").exists():
        for case in ElementTree.parse(report).iter("testcase"):
            by_name[str(case.get("name")).partition("[")[0]].append(case)
    return by_name, done.stdout + done.stderr
