"""Commands that run concurrently with the tests: they belong to the session, not to a test."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import pytest

import beside
from beside import Beside
from components import ROOT

AWAITS = "import sys, time\nfrom pathlib import Path\nwhile not Path(sys.argv[1]).exists(): time.sleep(0.01)"
TELLS = (
    "import os, signal, tempfile\nfrom pathlib import Path\n"
    "print(Path.cwd(), tempfile.gettempdir(), os.environ.get('OF_THE_TEST'), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
)


def test_a_tests_changes_do_not_reach_commands_that_run_concurrently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own := tmp_path / "own").mkdir()
    first = Beside(lambda folder: ["-c", AWAITS, tmp_path / "changed"])
    second = Beside(lambda folder: ["-c", TELLS])
    told = f"{ROOT} {tempfile.gettempdir()} None True\n"
    beside.begin([first, second])
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    monkeypatch.setenv("TMPDIR", str(own))
    monkeypatch.setenv("OF_THE_TEST", "1")
    monkeypatch.chdir(own)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        (tmp_path / "changed").touch()
        assert first.finished().code == 0
        assert second.finished().stdout == told
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(own.iterdir())


def test_variables_are_set_and_removed_and_each_command_has_a_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAKEN", "1")
    code = "import os, sys\nprint(os.environ.get('TAKEN'), os.environ['GIVEN'], *sys.argv[1:])\nsys.exit(3)"
    one, other = (
        Beside(lambda folder: ["-c", code, folder], {"TAKEN": None, "GIVEN": 'it\'s "so" $HOME'})
        for _ in range(2)
    )
    beside.begin([one, other])
    for command in (one, other):
        assert command.finished() == (3, f'None it\'s "so" $HOME {command.folder}\n', "")
    assert one.folder != other.folder


def test_a_command_that_cannot_run_here_skips_and_the_others_run() -> None:
    def skips(folder: Path) -> list[object]:
        pytest.skip("ffcv is not here")

    absent, present = Beside(skips), Beside(lambda folder: ["-c", "print(1)"])
    beside.begin([absent, present])
    with pytest.raises(pytest.skip.Exception, match=r"^ffcv is not here$"):
        absent.finished()
    assert present.finished() == (0, "1\n", "")
