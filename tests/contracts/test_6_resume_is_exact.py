"""Promise 6: stopped at any moment and resumed, a CPU run ends with the same loss bits and weights."""

from __future__ import annotations

import ast
from pathlib import Path

from components import ROOT
from stress.kill_training import Fault, attack


def test_a_run_stopped_by_ctrl_c_and_by_sigkill_ends_as_if_never_stopped(
    tmp_path: Path, tiny_beton: Path
) -> None:
    faults = [Fault("SIGINT", "launcher"), Fault("SIGKILL", "launcher")]
    assert attack(tmp_path, tiny_beton, 1, faults, seed=4) == ""


def test_two_ranks_whose_launcher_is_killed_and_that_resume_at_once_do_too(
    tmp_path: Path, tiny_beton: Path
) -> None:
    assert attack(tmp_path, tiny_beton, 2, [Fault("SIGKILL", "launcher")], seed=3) == ""


def test_every_file_of_weights_is_loaded_as_data_only() -> None:
    """An environment variable may change torch.load's default, so each call passes weights_only=True."""
    calls = [
        (
            f"{path}:{node.lineno}",
            ast.unparse(node.func),
            {each.arg: ast.unparse(each.value) for each in node.keywords},
        )
        for path in sorted((ROOT / "alexnet_fast").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]
    loads = {place: given.get("weights_only") for place, function, given in calls if function == "torch.load"}
    assert loads and set(loads.values()) == {"True"}, loads
    assert not [place for place, _, given in calls if given.get("allow_pickle", "False") != "False"]
