"""The thin shell around the plan: watches fill a cache, a queue calls one reconcile.

handlers (kopf) ─▶ cache ─▶ workqueue ─▶ reconcile: observe ▶ plan ▶ apply ▶ status ─▶ metrics
signals (pods, gateways) ──────▲
"""
