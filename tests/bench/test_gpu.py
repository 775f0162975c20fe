"""The GPU's benchmark, on a small model without a GPU."""

import sys

import pytest

from tests.bench import gpu


@pytest.mark.slow
@pytest.mark.parametrize("lora", [[], ["--lora"]])
def test_every_phase_is_measured(monkeypatch, capsys, lora):
    monkeypatch.setattr(sys, "argv", ["gpu", "--shrunk", *lora])
    gpu.main()
    out = capsys.readouterr().out
    for phase in ("the Challenger writes", "the Solver writes", "judge", "update", "a step"):
        assert f"  {phase}" in out
    assert "tokens a second" in out and "TFLOPS" in out
