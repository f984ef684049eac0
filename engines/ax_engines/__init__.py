"""Engines of the AXModel operator: what turns a model's files into something that answers.

Read in this order: `contract` (what two sides share), `hardware`, `memory`, `recipe` (pure: which engine for
which GPU), `build` (the containers of a build Job), `triton` (the model inside Triton and its adaptors) and
`openai` (the frontend beside each Triton). Nothing here knows the operator or the gateway.
"""
