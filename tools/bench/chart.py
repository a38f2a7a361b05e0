"""Figures -> a bar chart: one panel for each longest side, one bar for each pipeline and thread count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#1f6fb4", "#e08214", "#4d9221", "#8c6bb1")
LIMIT_COLOUR = "#9a9a9a"
BAR_INCHES = 0.27


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the chart as a PNG, 1500 px wide."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    settings, results, machine = report["settings"], report["results"], report["machine"]
    panels = [[r for r in results if r["side_px"] == side] for side in settings["sides"]]
    panels = [panel for panel in panels if panel]
    heights = [len(panel) * BAR_INCHES + len({r["name"] for r in panel}) * 0.2 + 0.7 for panel in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(10, sum(heights) + 1.1),
        squeeze=False,
        sharex=True,
        height_ratios=heights,
        layout="constrained",
    )
    for panel, ax in zip(panels, axes[:, 0]):
        _draw_panel(panel, ax, sorted({r["threads"] for r in results}))
        ax.set_title(
            f"images of at most {panel[0]['side_px']} px, JPEG quality {settings['quality']}",
            loc="left",
            fontsize=13,
        )
    axes[-1, 0].set_xlabel("images per second (more is better); the line spans all rounds", fontsize=12)
    figure.suptitle(
        f"Random-resized crop 224 px + flip of {settings['images']:,} images, median of {settings['rounds']} rounds\n"
        f"{machine['processor']}, {machine['date'][:10]}",
        fontsize=14,
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw_panel(panel: Sequence[Mapping[str, Any]], ax: Any, threads: Sequence[int]) -> None:
    names = list(dict.fromkeys(r["name"] for r in panel))
    bar = 0.8 / len(threads)
    labelled = set()
    for r in panel:
        own = [x["threads"] for x in panel if x["name"] == r["name"]]
        place = names.index(r["name"]) + (own.index(r["threads"]) - (len(own) - 1) / 2) * bar
        colour = LIMIT_COLOUR if r["name"] == "limit" else COLOURS[threads.index(r["threads"]) % len(COLOURS)]
        speed = r["img_per_s"]
        whiskers = [[speed["median"] - speed["min"]], [speed["max"] - speed["median"]]]
        label = (
            f"{r['threads']} core{'s' if r['threads'] > 1 else ''}"
            if r["name"] != "limit" and r["threads"] not in labelled
            else None
        )
        labelled |= {r["threads"]} if label else set()
        ax.barh(
            place,
            speed["median"],
            bar * 0.92,
            xerr=whiskers,
            color=colour,
            ecolor="#222222",
            capsize=3,
            label=label,
        )
        ax.annotate(
            f"{speed['median']:,.0f}",
            (speed["max"], place),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=11,
        )
    ax.set_yticks(
        range(len(names)),
        [next(r["label"] for r in panel if r["name"] == name) for name in names],
        fontsize=12,
    )
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.tick_params(axis="x", labelsize=11, labelbottom=True)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.12)
    if len(threads) > 1:
        ax.legend(loc="lower right", fontsize=11)
