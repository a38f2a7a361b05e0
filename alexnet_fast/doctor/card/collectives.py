"""Sums over ranks by the device's own backend, in processes of their own: a backend that hangs or crashes ends no check but this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from .bench import Bench
from .ranks import MARK, TOLERANCE
from .row import Row, judged, skipped

PATIENCE_S = 120.0


def one_rank(bench: Bench) -> Row:
    """One rank: the backend starts and sums."""
    return _row(bench, 1)


def two_ranks(bench: Bench) -> Row:
    """Two ranks on two cards, or on a CPU: sums are right, and three training steps leave both with the same weights."""
    cards = 2 if bench.device.is_host else torch.accelerator.device_count()
    if cards < 2:
        return skipped("collectives, 2 ranks", "sums over two cards are right", "this machine shows one card")
    return _row(bench, 2)


def _row(bench: Bench, ranks: int) -> Row:
    name = f"collectives, {ranks} rank{'s' if ranks > 1 else ''}"
    expected = f"{bench.device.collective_backend} starts and sums right" + (
        ", and both ranks train the same weights" if ranks > 1 else ""
    )
    try:
        answers = _ask(bench, ranks)
    except _NoAnswer as error:
        return judged(name, False, expected, str(error), _remedy(bench), otherwise="fault")
    wrong = [text for each in answers for text in each["faults"]]
    rate = min(each["bytes_per_s"] for each in answers)
    same = len({each["fingerprint"] for each in answers}) == 1
    if not same:
        wrong.append("the ranks have different weights after the same steps")
    seen = "as expected"
    if ranks > 1:  # one rank alone moves nothing
        seen += f"; {rate / 1e9:,.1f} GB/s of {answers[0]['bytes'] >> 20} MiB, summed"
    return judged(
        name,
        not wrong,
        expected,
        ", ".join(wrong) or seen,
        _remedy(bench),
        otherwise="fault",
        gb_per_s=rate / 1e9 if ranks > 1 else None,
        largest_error=max(each["error"] for each in answers),
        tolerance=TOLERANCE,
    )


def _remedy(bench: Bench) -> str:
    tool = bench.device.facts.tool
    return (
        f"check with {tool} that the cards are healthy and linked" if tool else "check the loopback network"
    )


class _NoAnswer(Exception):
    """A rank ended without an answer, or took too long."""


def _ask(bench: Bench, ranks: int) -> list[dict[str, Any]]:
    """What each rank answers."""
    path = os.pathsep.join(folder for folder in sys.path if folder)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recipe.json").write_text(bench.recipe.model_dump_json(), encoding="utf-8")
        kind = bench.device.kind
        first = bench.device.torch_device.index or 0
        children = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    f"{__package__}.ranks",
                    folder,
                    str(rank),
                    str(ranks),
                    kind if bench.device.is_host else f"{kind}:{first if ranks == 1 else rank}",
                ],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            for rank in range(ranks)
        ]
        try:
            return [_answer(child, rank) for rank, child in enumerate(children)]
        finally:
            for child in children:
                child.kill()
                child.wait()


def _answer(child: subprocess.Popen[str], rank: int) -> dict[str, Any]:
    try:
        out, errors = child.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise _NoAnswer(f"rank {rank} did not answer within {PATIENCE_S:.0f} s") from None
    for line in reversed(out.splitlines()):
        if line.startswith(MARK):
            return dict(json.loads(line.removeprefix(MARK)))
    said = errors.strip().splitlines()
    raise _NoAnswer(f"rank {rank} ended with code {child.returncode}{f': {said[-1]}' if said else ''}")
