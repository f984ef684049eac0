"""Draws what every policy did: demand, slots paid for, queue, and what the hosted API carried."""

from pathlib import Path

from ax_operator.simulate.study import Result

_FEW = 2000


def draw(path: Path, title: str, slots: int, results: dict[str, Result]) -> None:
    """Writes a picture with one panel per policy. Raises ImportError without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panels = plt.subplots(
        len(results), 1, figsize=(11, 2.4 * len(results) + 0.6), sharex=True, squeeze=False, layout="constrained"
    )
    figure.suptitle(title)
    for axes, (name, result) in zip(panels[:, 0], results.items(), strict=True):
        series = result.outcome.series or []
        series = series[:: max(1, len(series) // _FEW)]
        hours = [row[0] / 3600 for row in series]
        demand = [row[1] for row in series]
        axes.fill_between(hours, demand, color="0.8", label="demand (requests)")
        axes.step(hours, [row[2] * slots for row in series], where="post", color="tab:blue", label="slots paid for")
        axes.fill_between(hours, [row[4] for row in series], color="tab:orange", label="at the hosted API")
        axes.plot(hours, [row[3] for row in series], color="tab:red", linewidth=0.8, label="queue")
        axes.set_ylim(0, 2.2 * max(1, *sorted(demand)[: max(1, int(0.99 * len(demand)))], 1))
        axes.set_title(
            f"{name}: {result.gpu_hours:.1f} GPU-hours, SLO {result.slo:.4f}, "
            f"hosted {result.hosted_share:.1%}, cost {result.cost_ratio:.2f} of the optimum",
            fontsize="medium",
            loc="left",
        )
    panels[0, 0].legend(loc="upper right", ncols=4, fontsize="small")
    panels[-1, 0].set_xlabel("hours")
    figure.savefig(path, dpi=110)
    plt.close(figure)
