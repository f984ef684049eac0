"""The page about the gateway names tests, metrics and settings that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")


def test_every_named_test_exists() -> None:
    folder = ROOT / "tests" / "gateway"
    written = [name for path in folder.glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())]
    named = re.findall(r"`(test_\w+)(…)?`", PAGE)
    assert len(named) > 20
    for name, cut in named:
        assert name in written or (cut and any(each.startswith(name) for each in written)), name
    for file in re.findall(r"`(test_\w+\.py)`", PAGE):
        assert (folder / file).exists(), file


def test_every_named_metric_exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "operator" / "ax_gateway").rglob("*.py"))
    known = set(re.findall(r'"(ax_gateway_\w+)"', sources))
    known |= {f"ax_gateway_{kind}_tokens" for kind in ("prompt", "completion")}
    known |= {f"ax_gateway_{name}_seconds" for name in ("time_to_first_byte", "time_between_tokens")}
    named = set(re.findall(r"`(ax_gateway_\w+)", PAGE))
    assert len(named) > 10
    assert {name.removesuffix("_total") for name in named} <= known


def test_costs_are_those_of_the_last_run() -> None:
    found = json.loads((ROOT / "docs" / "bench" / "gateway.json").read_text(encoding="utf-8"))
    signs = {"<=": "≤", ">=": "≥"}
    for row in found["targets"]:
        aim = f"{row['what']} {signs[row['relation']]} {row['target']:.3g}"
        verdict = "reached" if row["reached"] else "MISSED"
        assert f"| {aim} | {row['measured']:.3g} | {verdict} |" in PAGE
    for left_out in found["proxies"]["left_out"]:
        assert left_out.partition(":")[0] in PAGE
