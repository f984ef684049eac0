"""Builders of manifests, one module per object, each named for what it returns."""
