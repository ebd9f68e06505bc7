"""`loss.png`: what a run learnt, and how its learning rate went."""

from __future__ import annotations

from pathlib import Path

from hat.errors import UserError
from hat.training.metrics import read_metrics

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
TRAINING, RATE = "#2563eb", "#0f766e"
EVALUATIONS = {"validation": ("#d9480f", "o-"), "heldout": ("#9c36b5", "D")}  # colour, marker


def plot_loss(metrics_path: str | Path, png_path: str | Path) -> None:
    """Draws the metrics file of a run to a PNG of 1800 x 1200 pixels.

    Above: bits per byte of training, each logged value thin and their running mean thick, and of
    validation and held-out text as points, against real bytes trained on (below) and steps (on
    top). Below: the learning rate. The scale of bits per byte leaves out the first tenth of the
    run, whose steep fall would flatten the rest.
    UserError: no logged training step.
    """
    # Imported here, without pyplot: drawing to a file needs no display and no global state.
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    entries = read_metrics(metrics_path)
    training = [e for e in entries if e.get("bits_per_byte") is not None]
    if not training:
        raise UserError(f"{metrics_path} has no training step yet; train longer, then plot")
    trained_bytes, steps, bits, rate = (
        np.array([entry.get(name, np.nan) for entry in training], float)
        for name in ("bytes", "step", "bits_per_byte", "learning_rate")
    )
    unit, divisor = _unit(trained_bytes[-1])
    x = trained_bytes / divisor

    figure = Figure(figsize=(9, 6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    loss, schedule = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for axes in (loss, schedule):
        _style(axes)

    smooth = running_mean(bits, reach=len(bits) // 40)
    line = ".-" if len(bits) == 1 else "-"
    loss.plot(x, bits, color=TRAINING, alpha=0.25, linewidth=0.8)
    loss.plot(x, smooth, line, color=TRAINING, linewidth=2, label=f"training  {smooth[-1]:.3f}")
    late = np.arange(len(bits)) >= len(bits) // 10
    shown = [bits[late].min(), np.quantile(bits[late], 0.995), *smooth[late]]
    for split, (colour, marker) in EVALUATIONS.items():
        points = [e for e in entries if e.get(f"{split}_bits_per_byte") is not None]
        if points:
            at = np.array([entry["bytes"] for entry in points], float) / divisor
            values = np.array([entry[f"{split}_bits_per_byte"] for entry in points])
            loss.plot(at, values, marker, color=colour, markersize=6, linewidth=1, zorder=3,
                      markeredgecolor="white", label=f"{split}  {values[-1]:.3f}")
            shown += [*values[at >= x[late][0]]]
    room = 0.05 * (max(shown) - min(shown)) or 0.1
    loss.set_ylim(max(0.0, min(shown) - room), max(shown) + room)
    loss.set_ylabel("bits per byte", color=INK)
    loss.legend(loc="upper right", frameon=False, labelcolor=INK)

    schedule.plot(x, rate, line, color=RATE, linewidth=1.5)
    schedule.set_ylim(bottom=0)
    schedule.set_ylabel("learning rate", color=INK)
    schedule.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    schedule.set_xlabel(f"bytes trained on ({unit})", color=INK)
    schedule.set_xlim(0, x[-1] * 1.02)

    # Steps are no linear function of bytes (the fill of rows varies), hence the interpolation.
    x, steps = np.append(0, x), np.append(0, steps)
    top = loss.secondary_xaxis("top", functions=(
        lambda at: np.interp(at, x, steps), lambda at: np.interp(at, steps, x)
    ))
    top.xaxis.set_major_locator(MaxNLocator(integer=True))
    top.set_xlabel("steps", color=MUTED)
    top.tick_params(colors=MUTED)
    top.spines["top"].set_visible(False)

    png_path = Path(png_path)
    temporary = png_path.with_suffix(".tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(png_path)


def running_mean(values, reach: int):
    """float[n] -> float[n]: the mean of each value with the `reach` before it and after it, as
    far as there are any. Centred, because a trailing mean lags where the curve falls steeply."""
    import numpy as np

    total = np.append(0, np.cumsum(values))
    centre = np.arange(len(values))
    start = np.maximum(0, centre - reach)
    end = np.minimum(len(values), centre + reach + 1)
    return (total[end] - total[start]) / (end - start)


def _unit(most: float) -> tuple[str, float]:
    for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if most >= size:
            return name, size
    return "bytes", 1.0


def _style(axes) -> None:
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
