"""Draws small plots as SVG in the page's colours and fonts, so that they follow its colour scheme.

matplotlib draws with placeholder colours, which are replaced with CSS variables of
`templates/style.css`.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

INK: Final = "#010203"
MUTED: Final = "#020304"
LINE: Final = "#030405"
FIRST: Final = "#0a0001"
SECOND: Final = "#0a0002"
GOOD: Final = "#0b0001"
WARN: Final = "#0b0002"
BAD: Final = "#0b0003"

_VARIABLES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    FIRST: "--first",
    SECOND: "--second",
    GOOD: "--good",
    WARN: "--warn",
    BAD: "--bad",
}
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vaeline",
    "font.size": 8.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-4, 5),
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
_MOST_POINTS: Final = 300
_SMALL: Final = (3.5, 2.35)

Series = tuple[str, Sequence[float], Sequence[float]]


def curves(
    title: str, series: Sequence[Series], *, alt: str, marks: Sequence[tuple[float, str]] = ()
) -> Markup:
    """Draws lines over steps.

    Args:
        title: Title of the plot.
        series: Name, x and y of each line; at most two lines.
        alt: Alternative text for readers who cannot see the plot.
        marks: Vertical lines with colours.
    """
    with mpl.rc_context(_STYLE):
        figure, axis = _figure(_SMALL)
        for (name, x, y), colour in zip(series, (FIRST, SECOND), strict=False):
            step = -(-len(x) // _MOST_POINTS) or 1
            few = len(x) <= 24
            axis.plot(
                x[::step], y[::step], color=colour, label=name,
                marker="o" if few else "", markersize=3,
            )  # fmt: skip
        for place, colour in marks:
            axis.axvline(place, color=colour, linewidth=1, linestyle=(0, (3, 3)))
        axis.set_title(title)
        axis.locator_params(axis="y", nbins=5)
        axis.locator_params(axis="x", nbins=5)
        if len(series) > 1:
            axis.legend(loc="best", handlelength=1.2)
        return _svg(figure, alt)


def histogram(
    title: str,
    values: np.ndarray,
    *,
    alt: str,
    label: str,
    bounds: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str, str]] = (),
    log: bool = False,
) -> Markup:
    """Draws a histogram with forty bins.

    Args:
        title: Title of the plot.
        values: float [n].
        alt: Alternative text for readers who cannot see the plot.
        label: Label of the x axis.
        bounds: First and last edge; by default the range of the values.
        marks: Position, name and colour of vertical lines.
        log: Whether the count axis is logarithmic.
    """
    counts, edges = count_in_bins(values, bounds)
    with mpl.rc_context(_STYLE):
        figure, axis = _figure((5.2, 2.6))
        axis.stairs(counts, edges, fill=True, color=FIRST, alpha=0.85, linewidth=0)
        if log:
            axis.set_yscale("symlog", linthresh=1)
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        else:
            axis.yaxis.get_major_locator().set_params(integer=True)
        for place, name, colour in marks:
            if edges[0] <= place <= edges[-1]:
                axis.axvline(place, color=colour, linewidth=1.3, linestyle=(0, (4, 3)), label=name)
        axis.set(title=title, xlabel=label, ylabel="images")
        if marks:
            axis.legend(loc="upper right", handlelength=1.6)
        axis.grid(axis="x", visible=False)
        return _svg(figure, alt)


def count_in_bins(
    values: np.ndarray, bounds: tuple[float, float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Counts finite values in forty bins; those beyond the bounds are in the outermost bins.

    Args:
        values: float [n].
        bounds: First and last edge; by default the range of the values.

    Returns:
        The counts, int [40], and the edges, float64 [41].
    """
    # In float32 the last edge may be rounded up, and NumPy leaves out what is beyond it.
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = bounds or (float(finite.min()), float(finite.max()))
    edges = np.linspace(low, high if high > low else low + 1, 41)
    counts, _ = np.histogram(np.clip(finite, low, edges[-1]), edges)
    return counts, edges


def threshold_marks(scores: Mapping[str, float]) -> list[tuple[float, str, str]]:
    """Returns the marks of the thresholds in a histogram of the outlier score.

    Args:
        scores: The thresholds by verdict.

    Returns:
        Position, name and colour of each mark.
    """
    colours = {"review": WARN, "reject": BAD}
    return [(score, name, colours[name]) for name, score in scores.items()]


def reliability(
    title: str, confidence: np.ndarray, right: np.ndarray, *, alt: str, bins: int = 10
) -> Markup:
    """Draws the share of correct predictions over confidence, in bins of equal width.

    Args:
        title: Title of the plot.
        confidence: float [n], probability of the predicted class.
        right: bool [n], whether the prediction is correct.
        alt: Alternative text for readers who cannot see the plot.
        bins: number of bins.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    used = counts > 0
    mean = np.bincount(place, weights=confidence, minlength=bins)[used] / counts[used]
    share = np.bincount(place, weights=right, minlength=bins)[used] / counts[used]
    with mpl.rc_context(_STYLE):
        figure, axis = _figure((3.5, 3.1))
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        sizes = 12 + 160 * counts[used] / counts.sum()
        axis.vlines(mean, mean, share, color=BAD, linewidth=1.2)
        axis.scatter(mean, share, s=sizes, color=FIRST, linewidths=0, zorder=3)
        axis.set(title=title, xlabel="confidence", ylabel="share right")
        axis.set(xlim=(-0.02, 1.05), ylim=(-0.02, 1.07))
        return _svg(figure, alt)


def bars(title: str, values: np.ndarray, *, alt: str, label: str, threshold: float) -> Markup:
    """Draws bars in descending order, with those above a threshold in colour.

    Args:
        title: Title of the plot.
        values: float [n], positive.
        alt: Alternative text for readers who cannot see the plot.
        label: Label of the y axis, which is logarithmic.
        threshold: Value at which a line is drawn.
    """
    ordered = np.sort(values)[::-1][:128]
    with mpl.rc_context(_STYLE):
        figure, axis = _figure((5.2, 2.4))
        colours = [FIRST if value > threshold else MUTED for value in ordered]
        axis.bar(np.arange(1, len(ordered) + 1), np.maximum(ordered, 1e-6), color=colours)
        axis.axhline(threshold, color=WARN, linewidth=1.2, linestyle=(0, (4, 3)))
        axis.set(title=title, xlabel="dimension, most active first", ylabel=label, yscale="log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(lambda value, _: "")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(axis="x", visible=False)
        return _svg(figure, alt)


def _figure(size: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, alt: str) -> Markup:
    """Converts a figure to an `svg` element with the page's ids, colours, fonts and styles."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    body = text[text.index("<svg") :]
    view = re.search(r'viewBox="([^"]+)"', body)
    inner = body[body.index(">") + 1 : body.rindex("</svg>")]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = re.sub(r"<style[^>]*>.*?</style>", "", inner, flags=re.DOTALL)
    inner = re.sub(r"<!--.*?-->", "", inner, flags=re.DOTALL)
    # Group ids (figure_1, axes_1, ...) are unused and would repeat in every plot of the page.
    inner = re.sub(r'<g id="[^"]*">', "<g>", inner)
    inner = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", inner)
    inner = re.sub(r"\n\s*", "\n", inner)
    for colour, variable in _VARIABLES.items():
        inner = inner.replace(colour, f"var({variable})")
    opening = Markup('<svg class="plot" role="img" aria-label="{}" viewBox="{}">').format(
        alt, view.group(1) if view else "0 0 100 100"
    )
    return opening + Markup(inner) + Markup("</svg>")
