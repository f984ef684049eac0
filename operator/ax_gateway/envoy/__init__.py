"""A RouteTable as Envoy resources: JSON-shaped dicts, made by pure functions.

`listener` takes a request apart, `routes` finds its model, `clusters` reaches the replicas, `replies` words the
errors, `bootstrap` is what Envoy starts from. `resources` puts them together.
"""
