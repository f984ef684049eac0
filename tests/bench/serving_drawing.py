"""The picture of what serving costs, for `serving.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw CPU per token of each process, the systems side by side."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "serving"
    loads = [result for result in results if result["load"]["rounds"] > 1]
    figure, axes = plt.subplots(figsize=(7, 3.8))
    names = []
    systems = {"triton": "generate_stream", "ours": "this frontend", "gateway": "with the gateway"}
    colours = {"triton": "#4c78a8", "stub": "#72b7b2", "frontend": "#f58518", "envoy": "#b279a2", "agent": "#9d755d"}
    for place, (result, system) in enumerate((result, name) for result in loads for name in systems):
        left = 0.0
        for process, colour in colours.items():
            us = result[system]["us_per_token"].get(process, 0)
            axes.barh(place, us, left=left, color=colour, label=process if place == len(systems) - 1 else None)
            left += us
        axes.text(left + 2, place, f"{left:.0f}", va="center")
        names.append(f"{result['load']['streams']} × {result['load']['rate']:g}/s, {systems[system]}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("CPU per token, µs (user + system)")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.06, 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
