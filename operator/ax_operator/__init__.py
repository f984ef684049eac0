"""The AXModel operator: AXModels go in, a pure function plans what should exist, a thin shell applies it.

Read in this order: `api` (the kinds, the only spelling of their keys), `plan` (pure: what should exist, and why),
`control` (watch, queue, reconcile, report), `kube` (the only door to the API server), `settings`, `simulate`
(replays traffic through the autoscaler that production runs).
"""
