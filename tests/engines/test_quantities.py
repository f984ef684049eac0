"""Quantities are spelled as the API server spells them, or objects would differ from what is read back for ever."""

import pytest

from ax_engines.recipe.quantities import canonical, cpu_cores, mebibytes


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2048Mi", "2Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("512Mi", "512Mi"),
        ("1048576Mi", "1Ti"),
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1.5", "1500m"),
        ("1000M", "1G"),
        ("1024", "1024"),
        ("1000", "1k"),
        ("0.0001", "1m"),
        ("0", "0"),
        ("many", "many"),
    ],
)
def test_a_quantity_is_spelled_as_the_api_server_spells_it(written, read):
    assert canonical(written) == read
    assert canonical(read) == read


def test_memory_of_recipes_is_canonical():
    assert mebibytes(16384) == "16Gi"
    assert mebibytes(16385) == "16385Mi"


@pytest.mark.parametrize(("quantity", "cores"), [("250m", 0.25), ("2", 2.0), ("1.5", 1.5), ("2Gi", None), ("", None)])
def test_amounts_of_cpu(quantity, cores):
    assert cpu_cores(quantity) == cores
