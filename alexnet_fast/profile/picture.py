"""throughput.png: the ceilings against what training makes, how decoding scales, and where the time goes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .stepping import PARTS
from .verdict import WORDS

BLUE, ORANGE, PURPLE, GREY, INK = "#1f6fb4", "#e08214", "#8c6bb1", "#9a9a9a", "#222222"
WIDTH, DPI = 10, 150  # 1500 px wide
LARGE, MEDIUM, SMALL = 14, 12, 11
UNITS = {"us": "microseconds", "ms": "milliseconds"}
DASHED = (0, (3, 2))
FITS = 3.0  # a ceiling more than so many times the lowest is cut off: how far above it stands does not matter

Document = Mapping[str, Any]


def draw(document: Document, path: Path) -> bool:
    """Write the picture of throughput.json's `document` as a PNG; False where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return False
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"text.parse_math": False, "font.size": SMALL})  # names may hold a $
        head, first = _head(document), document["verdict"]["text"].split(". ")[0].rstrip(".")
        said = _wrapped(f"{first}.", 105)
        sample, step = _sample_rows(document), _step_rows(document["step"])
        lines, stages = (head + said).count("\n"), len(document["verdict"]["ceilings_img_per_s"])
        upper = 1.8 + 0.24 * lines + 0.6 * stages
        lower = max(4.0, 0.3 * (len(sample) + len(step)) + 1.9)
        figure: Any = Figure(figsize=(WIDTH, upper + lower), dpi=DPI, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        top, below = figure.subfigures(2, 1, height_ratios=(upper, lower))
        left, right = below.subfigures(1, 2, width_ratios=(1.1, 1))
        figure.suptitle(_drawable(head), fontsize=LARGE)
        top.suptitle(_drawable(said), fontsize=MEDIUM)
        _draw_ceilings(document, top.subplots())
        _draw_scaling(document, left)
        above, beneath = right.subplots(2, 1, height_ratios=(len(sample), len(step)))
        _draw_rows(sample, "One sample on one thread", "us", above)
        _draw_rows(step, "One step", "ms", beneath)
        figure.savefig(path)
    return True


def _head(document: Document) -> str:
    machine = document["machine"]
    facts = list(dict.fromkeys((machine["device"], machine["processor"])))  # one and the same on a CPU
    facts += [_count(machine["cores"], "core"), _count(machine["ranks"], "rank"), document["made"][:10]]
    return "\n".join(_wrapped(text, 90) for text in (f"Throughput of {document['name']}", ", ".join(facts)))


def _wrapped(text: str, most: int) -> str:
    """In as few lines of at most so many letters as it takes, of about the same length."""
    lines = textwrap.wrap(text, most)
    even = textwrap.wrap(text, min(most, int(1.1 * len(text) / len(lines)) + 4))
    return "\n".join(even if len(even) == len(lines) else lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _drawable(text: str) -> str:
    """Letters that the font lacks, in a recipe's name say, as boxes."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return "".join(
        letter if letter == "\n" or font.get_char_index(ord(letter)) else "\u25a1" for letter in text
    )


# What training makes against what each stage could.


def _draw_ceilings(document: Document, ax: Any) -> None:
    verdict, whole = document["verdict"], document["whole"]["img_per_s"]
    ceilings, ranges = verdict["ceilings_img_per_s"], spreads(document)
    binding = "step" if verdict["binding"] == "all-reduce" else verdict["binding"]
    lowest, predicted = min(ceilings.values()), verdict["predicted_img_per_s"]
    shown = [most for _, most in ranges.values() if most <= FITS * lowest]
    end = 1.12 * max(1.7 * lowest, predicted, whole["most"], *shown)
    names = [name for name in WORDS if name in ceilings]
    for place, name in enumerate(names):
        rate, (least, most) = ceilings[name], ranges[name]
        binds = name == binding
        ax.barh(place, min(rate, end), 0.62, color=ORANGE if binds else BLUE)
        if rate > end:
            _tear(ax, end, place)
        else:
            whiskers = [[max(0.0, rate - least)], [max(0.0, min(most, end) - rate)]]
            ax.errorbar(rate, place, xerr=whiskers, color=INK, capsize=4, linewidth=1.5)
        text = f"{rate:,.0f} img/s" + (", the limit" if binds else "")
        _beside(ax, min(max(most, rate), end), place, text, weight="bold" if binds else None)
    ax.axvspan(whole["least"], whole["most"], color=INK, alpha=0.13, linewidth=0)
    spread = f"{whole['least']:,.0f} to {whole['most']:,.0f}"
    measured = f"end to end: {whole['median']:,.0f} img/s ({spread})"
    ax.axvline(whole["median"], color=INK, linewidth=2.2, label=measured)
    ax.axvline(
        predicted, color=INK, linewidth=1.8, linestyle=DASHED, label=f"predicted: {predicted:,.0f} img/s"
    )
    ax.set_yticks(range(len(names)), [_row(document, name) for name in names], fontsize=SMALL)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(0, end * 1.25)
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= end])
    _plain(
        ax, "what each stage makes alone, img/s of all ranks; whiskers: the least and the most of its windows"
    )
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, fontsize=MEDIUM, frameon=False, borderaxespad=0.2
    )


def spreads(document: Document) -> dict[str, tuple[float, float]]:
    """Each ceiling's least and most, in img/s."""
    decode, step, copy = document["decode"], document["step"], document["copy"]
    used = next(point for point in decode["scaling"] if point["threads"] == decode["threads"])
    found = {
        "read": (_read_img_per_s(document, "least"), _read_img_per_s(document, "most")),
        "decode": (used["img_per_s"]["least"], used["img_per_s"]["most"]),
        "step": (step["img_per_s"]["least"], step["img_per_s"]["most"]),
    }
    if copy is not None:
        rate = copy["pinned_bytes_per_s"]
        found["copy"] = (rate["least"] / copy["image_bytes"], rate["most"] / copy["image_bytes"])
    return found


def _read_img_per_s(document: Document, which: str) -> float:
    """As read.Read.at, with the least or the most of the storage's rates, drawn about the ceiling."""
    read, resident = document["read"], document["whole"]["resident_share"]
    cached, disk = read["cached_bytes_per_s"], read["disk_bytes_per_s"] or read["cached_bytes_per_s"]
    of, median = (resident / cached[key] + (1 - resident) / disk[key] for key in (which, "median"))
    return float(document["verdict"]["ceilings_img_per_s"]["read"] * median / of)


def _row(document: Document, name: str) -> str:
    """The stage, and below it under what conditions."""
    decode, step_ms, summing = (
        document["decode"],
        document["step"]["step_ms"],
        document["step"]["all_reduce_ms"],
    )
    conditions = {
        "read": f"{100 * document['whole']['resident_share']:.0f} % in the page cache",
        "decode": f"{_count(decode['threads'], 'thread')} a rank",
        "copy": "from page-locked memory",
        "step": f"{_number(step_ms['median'])} ms"
        + (f", {_number(summing['median'])} summing" if summing else ""),
    }
    return f"{WORDS[name]}\n{conditions[name]}"


def _tear(ax: Any, end: float, place: float) -> None:
    """A bar's torn end: it goes on."""
    for shift in (0.0, 0.022):
        x = [end * (0.955 + shift + (0.008 if k % 2 else 0)) for k in range(5)]
        y = [place - 0.34 + 0.17 * k for k in range(5)]
        ax.plot(x, y, color="white", linewidth=2.5, clip_on=False)


# How decoding scales.


def _draw_scaling(document: Document, figure: Any) -> None:
    ax = figure.subplots()
    decode, step = document["decode"], document["verdict"]["ceilings_img_per_s"]["step"]
    points = decode["scaling"]
    threads = [point["threads"] for point in points]
    rates = [point["img_per_s"]["median"] for point in points]
    least = [point["img_per_s"]["least"] for point in points]
    most = [point["img_per_s"]["most"] for point in points]
    whiskers = [
        [rate - low for rate, low in zip(rates, least)],
        [high - rate for rate, high in zip(rates, most)],
    ]
    top = 1.1 * max(most)
    if top < step < 1.6 * top:
        top = 1.08 * step
    used = threads.index(decode["threads"])
    ideal = [0, 1.06 * threads[-1]]
    each = rates[0] / threads[0]
    style: dict[str, Any] = {"color": BLUE, "marker": "o", "linewidth": 2, "capsize": 4}
    measured = ax.errorbar(threads, rates, yerr=whiskers, **style, label="measured")
    (straight,) = ax.plot(ideal, [each * count for count in ideal], color=GREY, linestyle=DASHED)
    straight.set_label("as many times one thread")
    ring: dict[str, Any] = {"markersize": 13, "markerfacecolor": "none", "markeredgecolor": ORANGE}
    (recipe,) = ax.plot(threads[used], rates[used], "o", **ring, markeredgewidth=2.5, label="the recipe's")
    stepping = ax.axhline(step, color=PURPLE, linewidth=2)  # out of sight where it stands above
    stepping.set_label(f"the step: {step:,.0f} img/s" + (" (above)" if step > top else ""))
    ax.set_xlim(0, ideal[1])
    ax.set_ylim(0, top)
    ax.set_xticks(threads, _thinned(threads, used))
    ax.set_xlabel("decoding threads a rank", fontsize=SMALL)
    ax.set_ylabel("decoded, img/s of all ranks", fontsize=SMALL)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set_title("Decoding alone", loc="left", fontsize=MEDIUM + 1)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    handles = [measured, recipe, straight, stepping]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, columnspacing=1.2)


def _thinned(threads: Sequence[int], used: int) -> list[str]:
    """Labels of the counts that have room, from the largest down; the recipe's has it first."""
    taken = [threads[used]]
    for count in reversed(threads):
        room = 0.035 * len(str(count)) * threads[-1]
        if all(abs(count - other) >= room for other in taken):
            taken.append(count)
    return [str(count) if count in taken else "" for count in threads]


# Where the time goes.

Row = tuple[str, float, float, str]  # name, where it begins, how long it takes, colour


def _sample_rows(document: Document) -> list[Row]:
    """The parts of decoding a sample one after the other, then other ways to store it as a whole."""
    split, (_, *others) = document["decode"]["split"], document["modes"]
    known = {
        part: split[f"{part}_us"] for part in ("cut", "libjpeg", "render") if split[f"{part}_us"] is not None
    }
    return _in_turn(known) + [
        (f"if {mode['name']}", 0.0, mode["decode_us"]["median"], GREY) for mode in others
    ]


def _step_rows(step: Mapping[str, Any]) -> list[Row]:
    """The parts of a step one after the other; summing gradients is a part of the backward pass's."""
    # throughput.json spells the first of PARTS as its version 1 did
    rows = _in_turn({part: step[f"{part.replace('normalize', 'normalise')}_ms"] for part in PARTS})
    if step["all_reduce_ms"] is not None:
        place = PARTS.index("backward")
        _, begin, takes, _ = rows[place]
        summing = step["all_reduce_ms"]["median"]
        rows.insert(place + 1, ("of it, summing", max(0.0, begin + takes - summing), summing, GREY))
    return rows


def _in_turn(parts: Mapping[str, Mapping[str, float]]) -> list[Row]:
    rows, at = [], 0.0
    for name, figure in parts.items():
        takes = max(0.0, figure["median"])  # a difference of two measurements may come out below 0
        rows.append((name, at, takes, BLUE))
        at += takes
    return rows


def _draw_rows(rows: Sequence[Row], title: str, unit: str, ax: Any) -> None:
    for place, (_, begin, takes, colour) in enumerate(rows):
        ax.barh(place, takes, 0.66, left=begin, color=colour)
        _beside(ax, begin + takes, place, f"{_number(takes)} {unit}")
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=SMALL)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, 1.3 * max(begin + takes for _, begin, takes, _ in rows))
    ax.set_title(title, loc="left", fontsize=MEDIUM + 1)
    ax.locator_params(axis="x", nbins=5)
    _plain(ax, UNITS[unit])


def _beside(ax: Any, value: float, place: float, text: str, **style: Any) -> None:
    ax.annotate(
        text,
        (value, place),
        (8, 0),
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
        annotation_clip=False,
        **style,
    )


def _number(value: float) -> str:
    """A time, in as many digits as say something."""
    return f"{value:,.{0 if value >= 100 else 1}f}"


def _plain(ax: Any, label: str) -> None:
    """The look of a panel of bars."""
    ax.set_xlabel(label, fontsize=SMALL)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right"]].set_visible(False)
