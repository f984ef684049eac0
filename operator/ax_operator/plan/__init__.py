"""The plan: pure functions from what was seen to what should exist.

`plan_model(model, seen, world, now)` runs accept, source, engine, serving, routing, summary in this order; each
step looks at facts, never at status, and gives children and one condition. `plan_store(namespace, seen, world,
now)` does the same for all AXEngines of a namespace: claim, builds, retention, sweep. `world` holds the types.
"""
