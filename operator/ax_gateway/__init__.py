"""The gateway: one address for every model, in front of pods, hosted APIs, or both.

Read it in this order: `table` (objects → who answers for which name, pure), `envoy` (table → Envoy's configuration,
pure), `xds` (configuration → Envoy), `hold` (requests wait while no replica is ready), `load` (what is in flight),
`agent` (the shell that joins them). Envoy carries every byte; nothing of ours is on that path but the waiting.
"""
