"""The picture of the gateway's benchmark."""

from __future__ import annotations

from pathlib import Path

MEASURES = (
    ("unary", "us_per_request", "CPU per request, µs"),
    ("streams_20", "us_per_token", "CPU per token, 20 streams, µs"),
    ("streams_100", "us_per_token", "CPU per token, 100 streams, µs"),
    ("streams_500", "us_per_token", "CPU per token, 500 streams, µs"),
    ("streams_100", "first_p50_us", "time to first token, p50, 100 streams, µs"),
    ("streams_100", "token_p99_us", "a token's way, p99, 100 streams, µs"),
)


def draw(found: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Draw costs per proxy and measure, on a logarithmic axis, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 2, figsize=(11, 10), layout="constrained")
    for axis, (load, key, title) in zip(axes.flat, MEASURES, strict=True):
        rows = {name: one[load][key] for name, one in found.items() if one.get(load, {}).get(key)}
        if not rows:
            raise ValueError(f"no proxy has a {key} of {load}")
        names = list(reversed(rows))
        colours = ["#2b6cb0" if name.startswith("gateway") else "#a0aec0" for name in names]
        bars = axis.barh(names, [rows[name] for name in names], color=colours)
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
        axis.set_xscale("log")
        axis.set_title(title, fontsize=10)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
