"""Makes an artifact once: resolve names the bytes, fetch copies them, quantize and compile work on them, publish
checks them and moves them into the store; sweep removes what no engine names.

A source is hostile until publish has looked at it: reads are bounded, names are checked, nothing is imported and
nothing is unpickled. A phase can be killed at any line and run again.
"""
