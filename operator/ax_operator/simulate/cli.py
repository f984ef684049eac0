"""`ax-operator simulate`: how many GPUs would this traffic need, and what would each autoscaler make of it?"""

import argparse
import json
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path

from ax_operator.simulate.picture import draw
from ax_operator.simulate.setting import Setting
from ax_operator.simulate.study import GPU_HOUR, HOSTED_PRICE, POLICIES, Result, study, yardstick
from ax_operator.simulate.trace import SHAPES, Trace, TraceError, synthetic_trace
from ax_operator.simulate.trace_file import read_trace

_BAR = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `simulate` to a parser."""
    shapes = ", ".join(f"synthetic:{name}" for name in SHAPES)
    parser.add_argument("--trace", required=True, metavar="FILE", help=f"CSV (.gz) of requests, or {shapes}")
    parser.add_argument("--policy", choices=(*POLICIES, "all"), default="all")
    parser.add_argument("--cold-start", type=_number(1, 7200), default=60.0, metavar="SECONDS")
    parser.add_argument("--hosted", action="store_true", help="let the hosted API carry what has no room")
    parser.add_argument("--gpu-hour", type=_number(0.001, 1e9), default=GPU_HOUR, metavar="KRW")
    parser.add_argument(
        "--hosted-price", type=_prices, default=HOSTED_PRICE, metavar="IN,OUT", help="KRW per million tokens"
    )
    parser.add_argument("--slots", type=_whole(1, 4096), default=8, help="requests that a replica serves at once")
    parser.add_argument("--prefill", type=_number(1, 1e9), default=8000.0, help="prompt tokens per second")
    parser.add_argument("--token-ms", type=_number(0, 60_000), default=25.0, help="milliseconds per output token")
    parser.add_argument("--max-replicas", type=_whole(1, 10_000), default=64)
    parser.add_argument("--scale", type=_whole(1, 1000), default=1, help="repeat every request so many times")
    parser.add_argument("--seed", type=int, default=1, help="of synthetic traces and of --scale")
    parser.add_argument(
        "--start",
        choices=("warm", "cold"),
        default="warm",
        help="begin with the replicas that the optimum needs in its first cold start, or with none",
    )
    parser.add_argument("--plot", type=Path, metavar="OUT.png")
    parser.add_argument("--format", choices=("table", "json"), default="table")


def run(args: argparse.Namespace) -> int:
    """Runs the study that the flags ask for and prints it; 2 if the trace or the picture is impossible."""
    try:
        trace = _trace(args.trace, args.seed).scaled(args.scale, args.seed)
    except TraceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    setting = Setting(
        slots=args.slots,
        prefill=args.prefill,
        token_ms=args.token_ms,
        cold_start=args.cold_start,
        hosted=args.hosted,
        gpu_hour=args.gpu_hour,
        hosted_input=args.hosted_price[0],
        hosted_output=args.hosted_price[1],
        max_replicas=args.max_replicas,
    )
    yard = yardstick(trace, setting, cold=args.start == "cold")
    policies = POLICIES if args.policy == "all" else (args.policy,)
    progress = _show_progress if sys.stderr.isatty() else None
    results = study(trace, yard, policies, series=args.plot is not None, progress=progress)
    if progress:
        sys.stderr.write("\r\033[K")
    sys.stdout.write(_json(trace, results) if args.format == "json" else _table(trace, results))
    if args.plot is not None:
        try:
            draw(args.plot, trace.name, args.slots, results)
        except ImportError:
            sys.stderr.write("error: --plot needs matplotlib: pip install 'ax-operator[plot]'\n")
            return 2
        except (OSError, ValueError) as error:
            sys.stderr.write(f"error: --plot {args.plot}: {error}\n")
            return 2
    return 0


def _trace(name: str, seed: int) -> Trace:
    kind, _, shape = name.partition(":")
    return synthetic_trace(shape, seed) if kind == "synthetic" else read_trace(Path(name))


def _json(trace: Trace, results: dict[str, Result]) -> str:
    shown = {
        "trace": trace.name,
        "optima": "exact on a 10 s grid",
        "policies": {name: result.to_json() for name, result in results.items()},
    }
    return json.dumps(shown, indent=2) + "\n"


def _table(trace: Trace, results: dict[str, Result]) -> str:
    lines = [
        f"{trace.name}: {len(trace.arrivals)} requests; optima exact on a 10 s grid",
        f"policy   {'GPU-h':>9} {'/oracle':>8} {'SLO':>7} {'hosted':>7} {'KRW':>12} {'/optimum':>8} {'changes':>8}",
    ]
    lines += [
        f"{name:<8} {result.gpu_hours:>9.2f} {result.oracle_ratio:>8.3f} {result.slo:>7.4f} "
        f"{result.hosted_share:>7.1%} {result.cost:>12,.0f} {result.cost_ratio:>8.3f} {result.scale_changes:>8}"
        for name, result in results.items()
    ]
    return "\n".join(lines) + "\n"


def _show_progress(name: str, share: float) -> None:
    done = round(share * _BAR)
    sys.stderr.write(f"\r\033[K{name:<8} [{'#' * done}{'.' * (_BAR - done)}] {share:4.0%}")
    sys.stderr.flush()


def _number(low: float, high: float) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = inf
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return parsed


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parsed(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parsed


def _prices(text: str) -> tuple[float, float]:
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not two prices: IN,OUT in KRW per million tokens")
    price = _number(0, 1e9)
    return price(parts[0]), price(parts[1])
