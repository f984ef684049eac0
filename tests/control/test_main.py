"""The command line, and the lines it logs."""

import logging

import pytest

from ax_operator.__main__ import main
from ax_operator.logs import KeyValues


def test_settings_that_are_wrong_end_the_process_with_what_to_change(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("namespace: ax-system\n")
    assert main(["run", "--settings", str(file)]) == 2
    assert "engines_image: Field required" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["walk"], ["run", "--log-level", "LOUD"]])
def test_a_wrong_command_is_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: ax_operator" in capsys.readouterr().err


def test_a_line_carries_its_facts_as_key_and_value():
    record = logging.makeLogRecord({"levelname": "INFO", "msg": "Built %s", "args": ("it",), "seconds": 3.5})
    record.error = "two\nlines, and = signs"
    record.empty = ""
    line = KeyValues().format(record)
    assert line.endswith("INFO Built it seconds=3.5 error='two\\nlines, and = signs' empty=''")
