"""Load corrupt recipes: each must load, or be refused in exactly one sentence.

    PYTHONPATH=.:tests:tools python -m stress.fuzz_recipes --tries 2000 --seed 0

Recipe number n is made from (seed, n) alone, so a finding can be reproduced: ``--first n --tries 1``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

from alexnet_fast import recipe_toml
from alexnet_fast.errors import UserError, exit_code

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
MAX_S = 10
Random = np.random.Generator

VALUES = [
    "", "0", "-1", "1e400", "nan", "-inf", "0x" + "f" * 5000, "9" * 5000, "9" * 400, "18446744073709551616", "9223372036854775808", "1_0", "0o17",
    "1.5", "1e-320", "true", '""', '"a"', "'a'", '"\\u0000"', '"\\ud800"', '"a\\nb"', '"""\na\n"""', '"' + "x" * 4000 + '"', '"\x7f"', "1979-05-27",
    "07:32:00", "[]", "[1]", "[1, 2]", "[[1]]", "[nan, 1]", "{}", "{a = 1}", "[" * 400 + "]" * 400, "[" * 60, "{a = " * 300, '["auto", 1]', "\x00", "\ufeff",
]  # fmt: skip
LINES = [
    "[run]", "[[run]]", "[run.name]", "[", "[]", "]", "=", "a = 1", "run = 3", "run.name = 3", "[nowhere]", '["a\\nb"]', "a" * 4900 + " = 1",
    ".".join("a" * 2400) + " = 1", "[" + ".".join("b" * 2400) + "]", '"\\u001b[2J" = 1', "'' = 1", "é = 1", "\x00", "\r", "x" * 6000, '"a\\r\\nb".c = 1', "[optim]\nlrr = 1",
]  # fmt: skip


@dataclass
class Result:
    """What happened to the recipes."""

    recipes: int = 0
    loaded: int = 0
    refused: int = 0
    """In one sentence."""
    worst_s: float = 0.0
    worst: int = 0
    """The number of the recipe that took longest."""
    seed: int = 0
    findings: list[str] = field(default_factory=list)


def some_bytes(rng: Random, text: bytes) -> bytes:
    changed = bytearray(text)
    for at in rng.integers(0, len(text), int(rng.integers(1, 8))):
        changed[at] = int(
            rng.choice([0, 10, 13, 34, 39, 44, 46, 61, 91, 93, 123, 127, 128, 255, int(rng.integers(256))])
        )
    return bytes(changed)


def a_value(rng: Random, text: bytes) -> bytes:
    lines = text.split(b"\n")
    keyed = [k for k, line in enumerate(lines) if b" = " in line]
    if not keyed:
        return some_bytes(rng, text)
    k = int(rng.choice(keyed))
    new = VALUES[int(rng.integers(len(VALUES)))].encode("utf-8", "surrogatepass")
    lines[k] = lines[k].partition(b" = ")[0] + b" = " + new
    return b"\n".join(lines)


def a_line(rng: Random, text: bytes) -> bytes:
    lines = text.split(b"\n")
    k, j = (int(x) for x in rng.integers(0, len(lines), 2))
    match int(rng.integers(5)):
        case 0:
            del lines[k]
        case 1:
            lines.insert(k, lines[j])
        case 2:
            lines[k], lines[j] = lines[j], lines[k]
        case 3:
            lines[k] = lines[k].swapcase()
        case _:
            lines.insert(k, LINES[int(rng.integers(len(LINES)))].encode())
    return b"\n".join(lines)


def a_letter(rng: Random, text: bytes) -> bytes:
    at = int(rng.integers(len(text)))
    return text[:at] + text[at + 1 :] if rng.random() < 0.5 else text[:at] + text[at : at + 1] + text[at:]


def cut_off(rng: Random, text: bytes) -> bytes:
    return text[: int(rng.integers(len(text)))]


def encoded_otherwise(rng: Random, text: bytes) -> bytes:
    ways: list[Callable[[bytes], bytes]] = [
        lambda text: text.decode("utf-8", "replace").encode("utf-16"), lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"), lambda text: text * 20, lambda text: text + b"\n#" + b" " * 60_000, lambda text: text[::-1],
    ]  # fmt: skip
    return ways[int(rng.integers(len(ways)))](text)


DAMAGES = [some_bytes, a_value, a_value, a_value, a_line, a_line, a_letter, cut_off, encoded_otherwise]


def make(seed: int, number: int) -> bytes:
    """The bytes of a recipe."""
    rng = np.random.default_rng([seed, number])
    shipped = sorted(RECIPES.glob("*.toml"))
    text = shipped[int(rng.integers(len(shipped)))].read_bytes()
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        text = DAMAGES[int(rng.integers(len(DAMAGES)))](rng, text or b" ")
    return text


def attack_one(path: Path) -> bool:
    """Whether a recipe loads; if so, reading back what dump writes must give the same recipe.

    Raises:
        AssertionError: it is refused, but not in one sentence.
    """
    try:
        loaded = recipe_toml.load(path)
    except UserError as error:
        message = str(error)
        assert message.isprintable() and 10 < len(message) < 1500, (
            f"no sentence for a terminal: {message[:200]!r}"
        )
        return False
    path.write_text(recipe_toml.dump(loaded), encoding="utf-8")
    assert recipe_toml.load(path) == loaded, "reading back what was written gives another recipe"
    return True


def attack(tries: int, seed: int = 0, first: int = 0) -> Result:
    """Recipes ``first`` to ``first + tries``. Call it in the main thread: an alarm stops what takes too long."""
    result = Result(seed=seed)
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(first, first + tries):
                path = Path(folder, "attacked.toml")
                path.write_bytes(make(seed, number))
                _count(result, number, path)
    finally:
        signal.signal(signal.SIGALRM, before)
    return result


def _count(result: Result, number: int, path: Path) -> None:
    result.recipes += 1
    started = time.perf_counter()
    signal.alarm(MAX_S)
    try:
        if attack_one(path):
            result.loaded += 1
        else:
            result.refused += 1
    except Exception as error:  # anything but our own error is a finding
        result.findings.append(f"recipe {number}: {type(error).__name__}: {error}"[:300])
    finally:
        signal.alarm(0)
    took_s = time.perf_counter() - started
    if took_s > result.worst_s:
        result.worst_s, result.worst = took_s, number


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"it took more than {MAX_S} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--tries", type=int, default=2000, metavar="N", help="recipes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first recipe")
    options = parser.parse_args()
    result = attack(options.tries, options.seed, options.first)
    print(json.dumps(asdict(result)))
    print(
        f"{result.recipes} corrupt recipes: {result.loaded} loaded, {result.refused} refused in one sentence, "
        f"{len(result.findings)} findings; the slowest, number {result.worst}, took {result.worst_s:.2f} s"
    )
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
