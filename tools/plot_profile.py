#!/usr/bin/env python3
"""Draw a profile as a picture: what each stage makes alone, how decoding scales with threads, and where the time goes.

    python tools/plot_profile.py runs/8p/throughput.json    # writes runs/8p/throughput.png

The file is what ``python -m alexnet_fast.train RECIPE --profile`` wrote. Drawing needs matplotlib, and no torch.
"""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_fast.common.cli import Parser, file_path
from alexnet_fast.common.text import plural
from alexnet_fast.common.untrusted import printable, read_json
from alexnet_fast.errors import UserError, escaped, exit_code

FORMAT = 1  # of run.ceiling, which imports torch
MAX_BYTES = 1 << 20  # a profile has about 8 kB
BLUE, ORANGE, GREY, INK = "#1f6fb4", "#e08214", "#9a9a9a", "#222222"

STEP_MS = {
    "normalize": "normalise_ms",
    "forward": "forward_ms",
    "backward": "backward_ms",
    "of it, summing": "all_reduce_ms",  # None for one rank
    "optimizer": "optimizer_ms",
}
QUEUE_MS = {
    "queued, alone": "alone_ms",
    "queued, decoding": "beside_ms",
    "computed, no gaps": "device_ms",  # None for a step that waits for the device
}

Stored = Mapping[str, Any]


class Bar(NamedTuple):
    """One figure: the median of its windows, their minimum and their maximum."""

    label: str
    median: float
    minimum: float
    maximum: float
    color: str = BLUE


class Figures(NamedTuple):
    """What the picture shows. scaling: decoding, by the number of threads a rank."""

    heading: str
    ceilings: list[Bar]
    end_to_end: Bar
    predicted: Bar
    scaling: dict[int, Bar]
    sample_us: list[Bar]
    step_ms: list[Bar]


def read(path: Path) -> Figures:
    """The figures of a throughput.json.

    Raises:
        UserError: it cannot be read, or is not one.
    """
    expected = "expected the throughput.json that --profile wrote into the run's folder"
    try:
        document = read_json(path, MAX_BYTES)
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, and {FORMAT} can be drawn")
        return _figures(document)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {expected}") from None
    except KeyError as error:
        raise UserError(f"{path} is not a profile (it has no {error}): {expected}") from None
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a profile ({error}): {expected}") from None


def _figures(document: Stored) -> Figures:
    decode, copy, step, whole = (document[key] for key in ("decode", "copy", "step", "whole"))
    split, (_, *other_ways), used = decode["split"], document["modes"], decode["threads"]
    verdict, machine = document["verdict"], document["machine"]
    parts = {
        "cut": split["cut_us"],
        # Version 0.1, which had libjpeg-turbo decode all, named it so.
        "decode": split["libjpeg_us" if "libjpeg_us" in split else "decode_us"],
        "render": split["render_us"],
    }
    scaling = {at["threads"]: _bar("", at["img_per_s"]) for at in decode["scaling"]}
    scaling[used] = scaling[used]._replace(color=ORANGE)
    if not all(1 <= count < 1e6 for count in scaling):  # false for NaN too
        raise ValueError("it counts fewer than one thread, or a million")
    ceilings = {
        "read": _bar(f"read\n({100 * whole['resident_share']:.0f} % cached)", _reading(document)),
        "decode": scaling[used]._replace(label=f"decode\n({plural(used, 'thread')} a rank)", color=BLUE),
        "step": _bar("step", step["img_per_s"]),
    }
    if copy is not None:
        ceilings["copy"] = _bar("copy", copy["pinned_bytes_per_s"], copy["image_bytes"])
    queue = document.get("queue") or {}  # None on a CPU; version 0.1 did not measure it
    if queue:
        ceilings["queue"] = _bar("queue on host", queue["img_per_s"])
    binding = "step" if verdict["binding"] == "all-reduce" else verdict["binding"]
    if binding != "ahead":  # which has no ceiling
        ceilings[binding] = ceilings[binding]._replace(color=ORANGE)
    made_on = {machine["device"]: 0, machine["processor"]: 0}  # one and the same on a CPU
    counts = plural(machine["cores"], "core"), plural(machine["ranks"], "rank"), document["made"][:10]
    lines = (
        f"Throughput of {document['name']}",
        ", ".join((*made_on, *counts)),
        verdict["text"].partition(". ")[0],
    )
    return Figures(
        "\n".join(textwrap.fill(printable(line), 105) for line in lines),
        list(ceilings.values()),
        _bar("end to end", whole["img_per_s"]),
        _bar("predicted", dict.fromkeys(("median", "least", "most"), verdict["predicted_img_per_s"])),
        scaling,
        [_bar(part, took) for part, took in parts.items() if took]
        + [_bar(printable(f"if {way['name']}", 30), way["decode_us"], color=GREY) for way in other_ways],
        [
            _bar(part, step[key], color=GREY if key == "all_reduce_ms" else BLUE)
            for part, key in STEP_MS.items()
            if step[key] is not None
        ]
        + [
            _bar(part, queue[key], color=GREY)
            for part, key in QUEUE_MS.items()
            if queue and queue[key] is not None
        ],
    )


def _reading(document: Stored) -> dict[str, float]:
    """Images a second of reading, as profile.storage.Read.at: a part of the file is in the page cache."""
    stored, cached_share = document["read"], document["whole"]["resident_share"]
    cached, disk = stored["cached_bytes_per_s"], stored["disk_bytes_per_s"] or stored["cached_bytes_per_s"]
    return {
        key: 1 / (stored["sample_bytes"] * (cached_share / cached[key] + (1 - cached_share) / disk[key]))
        for key in ("median", "least", "most")
    }


def _bar(label: str, stored: Stored, divisor: float = 1, color: str = BLUE) -> Bar:
    median, minimum, maximum = (stored[key] / divisor for key in ("median", "least", "most"))
    if not -1e15 < minimum <= median <= maximum < 1e15:  # false for NaN too
        raise ValueError(f"{median} between {minimum} and {maximum} is no figure that can be drawn")
    # The time of a stage may be the difference of two measurements, and come out below 0.
    return Bar(label, max(0.0, median), max(0.0, minimum), max(0.0, maximum), color)


def draw(figures: Figures, path: Path) -> None:
    """Write the picture, 1500 px wide as a PNG; the end of `path` says in which format.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the picture needs matplotlib; install it: pip install matplotlib") from None
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"text.parse_math": False, "font.size": 11})  # a name may hold a $
        matplotlib.rcParams.update(
            {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}
        )
        warnings.filterwarnings("ignore", "Glyph")  # letters that the font lacks are drawn as boxes
        figure = Figure(figsize=(10, 9.5), dpi=150, layout="constrained")
        figure.suptitle(figures.heading, fontsize=11)
        panels: Any = figure.subplot_mosaic(
            [["ceilings", "ceilings"], ["scaling", "sample"], ["scaling", "step"]],
            height_ratios=[1 + len(rows) for rows in (figures.ceilings, figures.sample_us, figures.step_ms)],
        )
        _draw_ceilings(figures, panels["ceilings"])
        _draw_scaling(figures, panels["scaling"])
        _draw_bars(panels["sample"], figures.sample_us, "One sample on one thread, us")
        _draw_bars(panels["step"], figures.step_ms, "One step, ms")
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot write {path}: {reason}; give another --out") from error


def _draw_ceilings(figures: Figures, ax: Any) -> None:
    whole, predicted = figures.end_to_end, figures.predicted
    # A stage of more than twice the lowest is not the limit: how far it is above does not matter.
    end = 2 * max(min(bar.median for bar in figures.ceilings), whole.maximum, predicted.median)
    title = "What each stage makes alone, images a second of all ranks (orange: the limit)"
    _draw_bars(ax, figures.ceilings, title, end)
    ax.axvspan(whole.minimum, whole.maximum, color=INK, alpha=0.13, linewidth=0)
    for line, style in ((whole, "-"), (predicted, "--")):
        ax.axvline(line.median, color=INK, linestyle=style, label=f"{line.label}: {line.median:,.0f}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)


def _draw_bars(ax: Any, bars: Sequence[Bar], title: str, end: float = 0.0) -> None:
    """A row for each bar; one that is longer than `end`, where given, is cut there, and an arrow says so."""
    end = end or max((bar.maximum for bar in bars), default=0.0) or 1.0
    rows, shown = range(len(bars)), [[min(value, end) for value in bar[1:4]] for bar in bars]
    spread = [[median - low for median, low, _ in shown], [high - median for median, _, high in shown]]
    lengths, colors = [median for median, *_ in shown], [bar.color for bar in bars]
    drawn = ax.barh(rows, lengths, color=colors, xerr=spread, ecolor=INK, capsize=3)
    labels = [f"{'→ ' * (bar.median > end)}{bar.median:,.{0 if bar.median >= 100 else 1}f}" for bar in bars]
    ax.bar_label(drawn, labels, padding=5)
    ax.set_yticks(rows, [bar.label for bar in bars])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.2 * end)
    ax.set_xticks([tick for tick in ax.get_xticks() if tick <= end])
    ax.xaxis.set_major_formatter("{x:,.0f}" if end >= 10 else "{x:g}")
    ax.set_title(title)


def _draw_scaling(figures: Figures, ax: Any) -> None:
    threads, bars = list(figures.scaling), figures.scaling.values()
    medians = [bar.median for bar in bars]
    spread = [[bar.median - bar.minimum for bar in bars], [bar.maximum - bar.median for bar in bars]]
    ax.errorbar(threads, medians, yerr=spread, color=BLUE, capsize=3, label="measured")
    ax.scatter(threads, medians, s=60, c=[bar.color for bar in bars], zorder=3)
    ideal = [0, medians[0] / threads[0] * threads[-1]]
    ax.plot([0, threads[-1]], ideal, color=GREY, linestyle="--", label="linear")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.locator_params(axis="x", integer=True)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("decoding threads a rank (orange: the recipe's)")
    ax.set_title("Decoding alone, images a second of all ranks")
    ax.legend(loc="upper left", frameon=False)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="plot_profile.py", description=(__doc__ or "").partition("\n\n")[0])
    add = parser.add_argument
    add(
        "profile",
        type=file_path,
        metavar="THROUGHPUT.JSON",
        help="what --profile wrote into the run's folder",
    )
    add("--out", type=file_path, metavar="FILE", help="the picture; default: a PNG next to the profile")
    options = parser.parse(argv)
    out = options.out or options.profile.with_suffix(".png")
    draw(read(options.profile), out)
    print(escaped(str(out)))


if __name__ == "__main__":
    sys.exit(exit_code(main))
