"""Loads the catalogue: one YAML file per model, beside this module."""

from __future__ import annotations

from importlib import resources

import yaml

from ax_engines.models import CatalogueEntry


def load() -> dict[str, CatalogueEntry]:
    """Return the catalogue's entries by name; raises ValueError naming the file that is wrong."""
    entries: dict[str, CatalogueEntry] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".yaml"):
            continue
        try:
            entry = CatalogueEntry.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"catalogue/{file.name}: {error}") from error
        if entry.name in entries:
            raise ValueError(f"catalogue/{file.name}: {entry.name} is named twice")
        entries[entry.name] = entry
    return entries
