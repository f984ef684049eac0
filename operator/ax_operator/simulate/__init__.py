"""Replays request traces through the production autoscaler, its rivals and the optimum.

Read in this order: `trace` (what arrives), `setting` and `world` (what serves it and what that costs), `scalers`
(who decides), `optimum` (the best with full knowledge), `study` (all together), `cli`.
"""

from ax_operator.simulate.cli import add_arguments, run

__all__ = ["add_arguments", "run"]
