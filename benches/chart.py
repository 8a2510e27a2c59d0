"""The chart of the main cases: each contender's speed as a share of the yardstick's."""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from fastsoftmax._bench.peers import PEERS
from fastsoftmax._bench.report import Row

OURS, OTHERS, INK, FAINT = "#1b5faa", "#a9b4c0", "#1c2530", "#6b7785"
COLUMNS = 3


def draw(rows: list[Row], to: Path, where: str) -> None:
    """Write the SVG: white ground and dark text, so that it reads the same on a light and on a dark page."""
    shown = [row for row in rows if row.case.chart and row.share is not None]
    if not shown:
        raise SystemExit("none of the cases measured is drawn in the chart")
    titles = {"fastsoftmax": "fastsoftmax"} | {entry.name: entry.title for entry in PEERS}
    bars = [name for name in titles if any(row.ms(name) is not None for row in shown)]

    mpl.rcParams.update({
        "svg.hashsalt": "fastsoftmax",  # the same figures make the same file
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": FAINT,
        "ytick.color": INK,
    })  # fmt: skip
    columns = min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(3.4 * columns + 0.6, (0.21 * len(bars) + 0.75) * lines + 0.9),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    right = max(1.0, *(row.share or 0 for row in shown)) * 1.16
    for i, axes in enumerate(grid.flat):
        if i >= len(shown):
            axes.set_visible(False)
            continue
        row = shown[i]
        reads = row.case.yardstick == "read"
        shares = [row.yardstick / ms if row.yardstick and (ms := row.ms(name)) else 0.0 for name in bars]
        colours = [OURS if name == "fastsoftmax" else OTHERS for name in bars]
        drawn = axes.barh(range(len(bars)), shares, color=colours, height=0.74)
        labels = [f"{s:.2f}" if s else "cannot" for s in shares]
        clear = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # of the dashed line behind
        axes.bar_label(drawn, labels, padding=3, fontsize=8, color=INK, bbox=clear)
        axes.axvline(1, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_title(row.case.chart, loc="left", fontsize=10, fontweight="bold")
        axes.set_title("of a read" if reads else "", loc="right", fontsize=8, color=FAINT)
        axes.set_yticks(
            range(len(bars)), [titles[name] for name in bars] if i % columns == 0 else [""] * len(bars)
        )
        axes.set_xlim(0, right)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.invert_yaxis()
        axes.tick_params(length=0, labelbottom=i + columns >= len(shown))
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.spines["left"].set_color(FAINT)
    figure.suptitle(
        "Speed as a share of a memory copy's (reductions: of reading the input once); longer is faster",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    below = f"softmax of float32 unless said; {where}; python benches/versus.py --svg"
    figure.supxlabel(below, fontsize=8, color=FAINT)
    figure.savefig(to, format="svg", facecolor="white", metadata={"Date": None})
    plt.close(figure)
