"""What this machine can do, as ``lsp doctor`` says it."""

import tomllib

import pytest
from packaging.requirements import Requirement

from lsp import doctor
from lsp.doctor import key, main, packages, requirements, where, writable
from lsp.errors import RunError
from lsp.tools.places import ROOT


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(doctor, "silent_server", lambda: "no answer within 5 s")
    monkeypatch.setattr(doctor, "unreachable", lambda url: "")


def test_a_line_for_each_thing_and_no_key_is_shown(offline, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "s" * 40)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main([]) == 0
    out = capsys.readouterr().out
    lines = {line[4:19].strip(): (line[:2], line[19:]) for line in out.splitlines()}
    assert lines["lsp"] == ("ok", f"checkout, {ROOT}")
    assert lines["packages"][0] == "ok" and "as needed" in lines["packages"][1]
    assert "cores" in lines["machine"][1] and "GB of memory" in lines["machine"][1]
    assert lines["WANDB_API_KEY"] == ("ok", "in the environment") and "sss" not in out
    assert lines["OPENAI_API_KEY"] == ("--", "not set")
    assert lines["W&B"] == ("--", "no answer within 5 s") and lines["Hub"][0] == "ok"
    assert {"[judge]", "[smollm]", "runs", "browser", "SmolLM2"} <= lines.keys()
    with pytest.raises(RunError, match="takes no words"):
        main(["all"])


def test_every_extra_has_a_word_of_what_it_is_for():
    """By pyproject.toml: what is installed may be of an earlier version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(doctor.FOR) == set(project["optional-dependencies"])
    assert {"", "judge"} <= set(requirements())


def test_a_missing_or_older_package_is_a_broken_installation(offline, monkeypatch, capsys):
    needed = {"": [Requirement("numpy>=1"), Requirement("torch>=99"), Requirement("nothing-such")],
              "judge": [Requirement("nothing-such")]}  # fmt: skip
    first, extra = packages(needed, {"numpy": "0.1"})
    assert first.mark == "NO" and "torch>=99 (here: " in first.text
    assert "no nothing-such" in first.text and "numpy" in first.text.partition("tested")[2]
    assert extra.mark == "--" and extra.what == "[judge]"
    monkeypatch.setattr(doctor, "requirements", lambda: needed)
    assert main([]) == 1
    assert "the installation is broken: packages" in capsys.readouterr().out


def test_a_package_of_somebody_elses_under_our_name_is_told(monkeypatch, tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "__init__.py").write_text("")
    spec = type("Spec", (), {"origin": str(tmp_path / "sweeps" / "__init__.py")})
    monkeypatch.setattr(doctor, "find_spec", lambda name: spec)
    assert where().mark == "NO" and "the package eval is another's" in where().text


def test_folders_and_stored_keys(tmp_path, monkeypatch):
    assert writable("runs", tmp_path / "not" / "yet").mark == "ok"
    (tmp_path / "file").write_text("")
    assert writable("runs", tmp_path / "file").mark == "--"
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert key("WANDB_API_KEY").mark == "--"
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    assert key("WANDB_API_KEY") == ("ok", "WANDB_API_KEY", "stored by its login command")
