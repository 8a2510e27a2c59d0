"""Pictures of calibration, drawn with Matplotlib: ``pip install 'fastsoftmax[plot]'``.

>>> import numpy as np, fastsoftmax.plot
>>> logits = np.random.default_rng(0).normal(size=(1000, 10))
>>> figure = fastsoftmax.plot.reliability_diagram(logits, logits.argmax(axis=1), temperature=0.5)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ._calibration import fit_temperature, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import ArrayLike

    from ._calibration import CalibrationBins

__all__ = ["reliability_diagram"]

# Colours that the colour-blind tell apart (Okabe and Ito); marker and line tell them apart in grey.
FIGURE: Final[dict[str, Any]] = {"figsize": (6, 6.8), "layout": "constrained"}  # of a new figure, in inches

BEFORE: Final[dict[str, Any]] = {"color": "#d55e00", "marker": "o", "linestyle": "-"}
AFTER: Final[dict[str, Any]] = {"color": "#0072b2", "marker": "s", "linestyle": "--"}


def reliability_diagram(
    logits: ArrayLike,
    labels: ArrayLike,
    /,
    *,
    temperature: float | None = None,
    n_bins: int = 15,
    to: Axes | Figure | SubFigure | str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Figure | SubFigure:
    """Draw accuracy against confidence, before and after temperature scaling, over a confidence histogram.

    Each point is a bin of rows: its mean confidence, the greatest probability of a row, and its accuracy,
    with the 95 % interval of a share (Wilson's). On the diagonal the classifier is as often right as it says;
    below it, it is too sure of itself. The histogram shows how many rows each bin holds.

    Parameters
    ----------
    logits : array_like
        Shape ``(n, C)``. The logarithms of probabilities are logits too.
    labels : array_like of int
        The true classes, shape ``(n,)``.
    temperature : float, optional
        The temperature of "after". By default that of `fit_temperature` for these rows; an honest picture
        takes it from other rows than those that are drawn.
    n_bins : int, default 15
        Bins of equal width between 0 and 1, closed on the right, as in `calibration_error`.
    to : matplotlib Axes, Figure or SubFigure, or path-like, optional
        Where to draw: in the place of these axes, into this figure, or into a new figure that is saved under
        this name, in the format of its ending. By default into a new figure.
    title : str, optional
        Above the diagram.

    Returns
    -------
    matplotlib.figure.Figure or matplotlib.figure.SubFigure
        What was drawn into.

    Raises
    ------
    ImportError
        Matplotlib is not installed.
    ValueError, TypeError, IndexError
        As `calibration_error` and `fit_temperature`.

    See Also
    --------
    fastsoftmax.calibration_error : The number to the picture, and the bins.
    fastsoftmax.fit_temperature : The temperature.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks",
       Proceedings of the 34th International Conference on Machine Learning (2017), 1321-1330.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax.plot import reliability_diagram
    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(scale=3, size=(500, 4))
    >>> labels = (logits + rng.gumbel(scale=2, size=logits.shape)).argmax(axis=1)
    >>> figure = reliability_diagram(logits, labels, title="Twice too sure")
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['accuracy, 95 % interval', 'share of rows']
    """
    try:
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "the reliability diagram needs Matplotlib: pip install 'fastsoftmax[plot]'"
        ) from None

    if temperature is None:
        temperature = fit_temperature(logits, labels)
    before = reliability(logits, labels, n_bins, from_logits=True)
    after = reliability(logits, labels, n_bins, from_logits=True, temperature=temperature)

    path = to if isinstance(to, str | os.PathLike) else None
    target: Any = Figure(**FIGURE) if to is None or path is not None else to
    heights = {"height_ratios": [3, 1]}
    if isinstance(target, Axes):
        axes, target = target, target.get_figure(root=False)
        spec = axes.get_subplotspec()
        if spec is None:
            raise ValueError("these axes were not made by subplots(); pass a Figure or a SubFigure")
        axes.remove()
        grid = spec.subgridspec(2, 1, **heights)
        upper = target.add_subplot(grid[0])
        lower = target.add_subplot(grid[1], sharex=upper)
    else:
        upper, lower = target.subplots(2, 1, sharex=True, gridspec_kw=heights)
    _diagram(upper, lower, [("before", 1.0, before, BEFORE), ("after", temperature, after, AFTER)])
    if title is not None:
        upper.set_title(title)
    if path is not None:
        target.savefig(path, dpi=150)
    drawn: Figure | SubFigure = target
    return drawn


def _diagram(
    upper: Axes, lower: Axes, curves: list[tuple[str, float, CalibrationBins, dict[str, Any]]]
) -> None:
    upper.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="perfect calibration")
    for name, temperature, bins, style in curves:
        full = bins.counts > 0
        share = bins.counts / max(1, bins.counts.sum())
        low, high = _wilson(bins.accuracy[full], bins.counts[full])
        upper.errorbar(
            bins.confidence[full],
            bins.accuracy[full],
            yerr=[bins.accuracy[full] - low, high - bins.accuracy[full]],
            markersize=5,
            linewidth=1.5,
            elinewidth=0.8,
            label=f"{name}: T = {temperature:.3g}, ECE {100 * bins.error:.2f} %",
            **style,
        )
        lower.stairs(share, bins.edges, fill=True, facecolor=style["color"], alpha=0.15, edgecolor="none")
        lower.stairs(
            share, bins.edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.5, label=name
        )
    rows = int(curves[0][2].counts.sum())
    margin = (-0.02, 1.02)  # so that points on the edge are whole
    upper.set(xlim=margin, ylim=margin, ylabel="accuracy, 95 % interval")
    upper.legend(loc="best", framealpha=0.8, edgecolor="none")
    upper.grid(alpha=0.25)
    upper.tick_params(labelbottom=False)
    lower.set(xlabel=f"confidence: the greatest probability of a row ({rows:,} rows)", ylabel="share of rows")
    lower.set_ylim(bottom=0)
    lower.grid(alpha=0.25)


def _wilson(share: Any, count: Any) -> tuple[Any, Any]:
    """Give the 95 % interval of a share: unlike the usual one, not empty at 0 and 1."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    # The interval holds the share itself, but for rounding.
    return np.minimum(middle - half, share), np.maximum(middle + half, share)
