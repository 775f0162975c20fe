"""Commands in processes of their own, forked from one that has loaded torch."""

import os

import pytest

from sweeps.parallel import require_all, run_all


def test_a_failure_says_why_and_does_not_stop_the_others(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (tmp_path / "threads.py").write_text("import os; print(os.environ['OMP_NUM_THREADS']); 1 / 0")
    commands = [
        ["run.py", "num_stepz=2"],
        ["-m", "sweeps.reproduce", "table"],
        ["-m", "sweeps.nothing"],
        [str(tmp_path / "threads.py")],
    ]
    refused, ended, missing, raised = run_all(commands, 2)
    assert ended is None
    assert refused.endswith("num_stepz=2: no such setting. Did you mean num_steps.")
    assert "No module named sweeps.nothing" in missing
    assert raised.startswith("1\n") and raised.endswith("ZeroDivisionError: division by zero")
    said = capfd.readouterr()
    assert "FAILED  run.py num_stepz=2" in said.err and "/4  -m sweeps.reproduce table" in said.err
    assert said.out == ""  # what commands say is theirs
    assert os.environ["OMP_NUM_THREADS"] == "7"
    with pytest.raises(
        SystemExit, match=r"(?s)error: python -m sweeps.nothing failed:\n.*No module"
    ):
        require_all([["-m", "sweeps.nothing"]], 1)
