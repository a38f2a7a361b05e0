"""Tab completion, in the shells that this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components import ROOT

shtab = pytest.importorskip("shtab")

FINDS_SHTAB = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(shtab.__file__).parents[1])))}

ASK = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE="{words}"; COMP_POINT=${{#COMP_LINE}}
_shtab_alexnet_fast
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory, run_cli: Callable[..., Any]) -> Path:
    path = tmp_path_factory.mktemp("completion") / "alexnet-fast.bash"
    run = run_cli("-m", "alexnet_fast", "completion", "bash", env=FINDS_SHTAB)
    assert run.code == 0, run.stderr
    path.write_text(run.stdout)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("alexnet-fast tr", {"train"}),
        ("alexnet-fast pack --on", {"--on-error", "--on-corrupt"}),
        ("alexnet-fast pack --mode l", {"lossless"}),
        ("alexnet-fast train 8p_e", {"8p_eval"}),
        ("alexnet-fast profile --res", {"--resume"}),
        ("alexnet-fast doctor my_", {"my_recipe.toml"}),
        ("alexnet-fast recipes --copy tin", {"tiny"}),
    ],
)
def test_bash_completes_commands_flags_choices_recipes_and_files(
    words: str, expected: set[str], script: Path, tmp_path: Path
) -> None:
    (tmp_path / "my_recipe.toml").touch()
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK.format(script=script, words=words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == expected, done


def test_zsh_gets_a_completion_with_the_recipes_names(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    run = run_cli("-m", "alexnet_fast", "completion", "zsh", env=FINDS_SHTAB)
    assert run.code == 0 and run.stdout.startswith("#compdef alexnet-fast\n")
    assert "compadd 1p 1p_perf 8p " in run.stdout
    if shutil.which("zsh"):
        (tmp_path / "script").write_text(run.stdout)
        subprocess.run(["zsh", "-n", tmp_path / "script"], check=True)


def test_without_shtab_the_error_says_what_to_install(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['shtab'] = None; sys.argv = ['alexnet-fast', 'completion', 'bash']\n"
        "from alexnet_fast.__main__ import main; sys.exit(main())"
    )
    run = run_cli("-c", code)
    assert (run.code, run.stdout) == (2, "") and "pip install shtab" in run.stderr
