"""Triton's side of a serving pod.

Read in this order: `repository` (what Triton is given, pure), `__main__` (writes it and becomes Triton), `model`
(what Triton calls), `service` (admission, delivery and cancellation of requests), `adaptor` (the seam to an
engine) and `engines/` (one file per engine).
"""
