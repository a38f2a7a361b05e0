"""``python -m alexnet_fast.doctor --card``: rows, table, JSON and picture; on the CPU here, on the stand-in NPU by card_cases.py."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from alexnet_fast.devices.registry import resolve
from alexnet_fast.doctor import __main__ as doctor
from alexnet_fast.doctor.card import checks, collectives, correctness, fast_paths, picture, report
from alexnet_fast.doctor.card import steps as card_steps
from alexnet_fast.doctor.card.bench import Bench
from alexnet_fast.doctor.card.checks import Check
from alexnet_fast.doctor.card.row import Row, judged, skipped
from alexnet_fast.models import MODELS
from alexnet_fast.recipe_toml import validate
from standin import cases
from stress.narrow_model import NARROW

CASES = "doctor/card_cases.py"


@pytest.mark.parametrize("name", cases.names(CASES))
def test_on_the_stand_in_npu(name: str) -> None:
    cases.check(CASES, name)


GOOD = judged("step, batch 8", True, "fast", "1,000 img/s", img_per_s=1000.0)
SLOW = judged("end to end", False, "95 % or more", "10 %", "look", img_per_s=100.0)
WRONG = judged("resume", False, "the same bits", "other <bits> {of} \x1b[31m", "stop", otherwise="fault")
LEFT = skipped("link, page-locked", "fast", "nothing is copied")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """only(look, ...): the checks that the command makes, on a small recipe."""

    def these(*looks: Any) -> None:
        monkeypatch.setattr(
            checks, "CHECKS", tuple(Check(f"check {k}", 0.1, look) for k, look in enumerate(looks))
        )

    return these


def bench() -> Bench:
    small = {"data": {"size": 64, "global_batch_size": 8}, "model": {"num_classes": 10}}
    found = Bench(validate(small), resolve("cpu"), lambda text: None)
    found.seconds = 0.5
    return found


def test_rows_become_a_table_a_json_and_a_picture(
    only: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only(lambda bench: GOOD, lambda bench: [SLOW, LEFT])
    out = tmp_path / "card.json"
    assert doctor.main(["--card", "--seconds", "5", "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "check 0 ..." in shown and "1,000 img/s" in shown and "end to end: look" in shown
    assert "2 rows checked: 1 warning." in shown
    found = json.loads(out.read_text())
    assert found["format"] == 1 and found["stopped"] is False and found["machine"]["kind"] == "cpu"
    assert [row["status"] for row in found["rows"]] == ["ok", "warning", "skipped"]
    assert found["rows"][0]["figures"] == {"img_per_s": 1000.0}
    ElementTree.parse(tmp_path / "card.svg")


def test_a_fault_ends_with_code_1(only: Any) -> None:
    only(lambda bench: WRONG)
    assert doctor.main(["--card", "--seconds", "5"]) == 1


def test_a_check_that_fails_is_a_row_and_the_next_one_runs(
    only: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(bench: Bench) -> Iterator[Row]:
        yield GOOD
        raise RuntimeError("the driver is gone\nand more")

    only(breaks, lambda bench: SLOW)
    assert doctor.main(["--card", "--seconds", "5"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "RuntimeError: the driver is gone" in shown and "3 rows checked: 1 fault and 1 warning." in shown


def test_ctrl_c_ends_with_what_was_measured_so_far(
    only: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(bench: Bench) -> Iterator[Row]:
        yield GOOD
        signal.raise_signal(signal.SIGINT)

    only(interrupted, lambda bench: WRONG)
    out = tmp_path / "card.json"
    assert doctor.main(["--card", "--seconds", "5", "--json", str(out)]) == 130
    shown = capsys.readouterr().out
    assert "stopped by Ctrl-C" in shown and "1,000 img/s" in shown and "Traceback" not in shown
    found = json.loads(out.read_text())
    assert found["stopped"] is True and [row["name"] for row in found["rows"]] == ["step, batch 8"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seconds", "1"], "is not from 5 to 3,600 seconds"),
        (["--set", "data.size=64"], "name a recipe"),
        (["--json", "/nowhere/at/all.json"], "/nowhere/at is not a folder"),
        (["--jason", "x"], "did you mean --json?"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(
    arguments: list[str], said: str, run_cli: Any
) -> None:
    done = run_cli("-m", "alexnet_fast.doctor", "--card", *arguments)
    assert (
        done.code == 2 and said in done.stderr and done.stderr.count("\n") == 1 and "..." not in done.stdout
    )


def test_the_picture_holds_every_row_whatever_its_text_says() -> None:
    drawn = picture.svg("a card & {its} title", [GOOD, SLOW, WRONG, LEFT])
    texts = [
        "".join(node.itertext()) for node in ElementTree.fromstring(drawn).iter() if node.tag.endswith("text")
    ]
    for row in (GOOD, SLOW, WRONG, LEFT):
        assert row.name in texts
    assert "a card & {its} title" in texts and r"other <bits> {of} \x1b[31m" in texts
    assert "\x1b" not in drawn


def test_a_bar_that_is_far_longer_than_any_step_is_cut_and_marked() -> None:
    decoding = judged("decoding alone", True, "", "", img_per_s=50_000.0)
    drawn = picture.svg("", [GOOD, SLOW, decoding])
    assert "\u2192 50,000" in drawn and "\u2192 1,000" not in drawn
    assert picture.svg("", [LEFT, WRONG]).count("<rect") == 1, "only the ground"


def test_rows_without_a_fault_close_as_expected() -> None:
    assert report.closing([GOOD, LEFT]) == "1 row checked, all as expected."


def test_a_cpu_is_checked_where_that_makes_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "alexnet", NARROW)
    monkeypatch.setattr(card_steps, "BATCHES_OF_A_CPU", (4, 8))
    monkeypatch.setattr(card_steps, "PATIENCE", 1e9)
    small = bench()
    looks = (fast_paths.fast_paths, correctness.resume, correctness.waits_for_nothing, card_steps.by_batch)
    found = {row.name: row for row in checks.rows(small, 1.0, [Check("", 0.5, look) for look in looks])}
    assert found["plain step"].status == found["resume"].status == "ok"
    assert found["no synchronising call in a step"].status == "skipped"
    assert found["step, batch 4"].figures["img_per_s"] and found["step, batch 8"].figures["img_per_s"]


def test_a_batch_that_would_take_too_long_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "alexnet", NARROW)
    monkeypatch.setattr(card_steps, "BATCHES_OF_A_CPU", (4, 8))
    monkeypatch.setattr(card_steps, "PATIENCE", 0)
    first, second = card_steps.by_batch(bench())
    assert first.figures["img_per_s"] and (second.name, second.status) == ("step, batch 8", "skipped")
    assert "would take too long" in second.seen


def test_two_ranks_of_a_cpu_sum_and_train_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    row = collectives.two_ranks(bench())
    assert row.status == "ok" and row.figures["gb_per_s"], row


def test_nothing_of_the_machine_s_own_checks_imports_torch(run_cli: Any) -> None:
    code = (
        "import sys, alexnet_fast.doctor.__main__, alexnet_fast.doctor.checks; print('torch' in sys.modules)"
    )
    assert run_cli("-c", code).stdout == "False\n"
