"""Settings from the chart's file: good ones, and errors that say what to change."""

import pytest

from ax_operator.settings import SettingsError, load

GOOD = """
namespace: ax-system
engines_image: registry.example/ax-engines:1
engine_retention: 0
toolchains:
  - name: cpu
    image: registry.example/ax-triton:1
    backends: [llamacpp]
operator:
  workers: 2
"""


def test_what_the_chart_writes_becomes_settings(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(GOOD)
    settings, process = load(file)
    assert settings.engine_retention == 0
    assert settings.toolchains[0].backends == ("llamacpp",)
    assert process.workers == 2
    assert process.http_port == 8080


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("namespace: ax-system\n", "engines_image: Field required"),
        (GOOD + "engine_retentoin: 5\n", "engine_retentoin: Extra inputs are not permitted"),
        (GOOD.replace("workers: 2", "workers: 0"), "operator.workers: Input should be greater than or equal to 1"),
        ("- a list\n", "must hold a mapping"),
        ("a: [\n", "is no YAML"),
    ],
)
def test_an_error_names_the_key(tmp_path, text, said):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said.replace(".", r"\.")):
        load(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.yaml.*mount the chart's ConfigMap"):
        load(tmp_path / "nowhere.yaml")
