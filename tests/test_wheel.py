"""The wheel, in an environment of its own, from a folder that is not the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from lsp.tools.places import ROOT

pytestmark = pytest.mark.slow


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from what git tracks, so that nothing is left in the checkout or taken from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(source)], check=True)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """``run = installed(*words)``: a command of a fresh environment that has the wheel, and the
    packages of this one beside it."""
    place, here = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"]
    alone = ["--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run([*pip, *alone, str(wheel)], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(program, *words):
        command = [str(place / "bin" / program), *words]
        return subprocess.run(
            command, cwd=here, env=environment, capture_output=True, text=True, timeout=900
        )

    run.here, run.site = here, site
    return run


def test_every_file_that_is_read_is_inside(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for name in tracked():
        room = name.partition("/")[0]
        if room in ("lsp", "eval", "sweeps", "conf"):
            assert (f"lsp/{name}" if room == "conf" else name) in inside, name
    roots = {name.partition("/")[0] for name in inside if ".dist-info/" not in name}
    assert roots == {"lsp", "eval", "sweeps"}


def test_it_answers_plans_and_trains_from_another_folder(installed):
    for words in (["--help"], ["train", "--help"], ["compare", "--help"]):
        shown = installed("lsp", *words)
        assert shown.returncode == 0 and shown.stdout.startswith("lsp "), shown.stderr
    plan = installed("lsp", "plan", "experiment=paper_v1/lsp", "hardware=gpu_80gb")
    assert plan.returncode == 0 and "memory" in plan.stdout, plan.stderr
    shape = ["num_steps=2", "num_queries=4", "group_size=3", "eval.every=0", "eval.exact=false",
             "eval.test_per_cell=2", "eval.challenger_samples=8"]  # fmt: skip
    trained = installed("lsp", "train", "tracker=none", "run_dir=outputs/mine", *shape)
    assert trained.returncode == 0, trained.stderr
    record = json.loads((installed.here / "outputs/mine/run.json").read_text())
    assert record["command"].startswith("lsp train tracker=none") and record["git_commit"] == ""
    assert (installed.here / "outputs/mine/report.html").is_file()
    assert "mine" in installed("lsp", "runs").stdout
    (installed.here / "taken").mkdir()
    (installed.here / "taken/file").write_text("")
    again = installed("lsp", "train", "run_dir=outputs/mine", "tracker=none")
    assert again.returncode == 1 and "lsp train resume=outputs/mine" in again.stderr
    assert installed("lsp", "train", "resume=outputs/mine").returncode == 0
    judged = installed("lsp", "eval", "outputs/mine", "benchmark=pocket", "benchmark.per_cell=1")
    assert judged.returncode == 0, judged.stderr


def test_its_parts_are_those_of_the_environment_and_sweeps_run_where_one_stands(installed):
    doctor = installed("lsp", "doctor")
    assert doctor.returncode == 0 and str(installed.site / "lsp") in doctor.stdout, doctor.stdout
    (installed.here / "two.yaml").write_text(
        "program: run.py\nmethod: grid\nmetric: {name: reward/solver/mean, goal: maximize}\n"
        "parameters: {seed: {values: [0, 1]}}\n"
    )
    small = ["num_steps=1", "num_queries=2", "group_size=2", "eval=none", "tracker=none"]
    swept = installed("lsp", "sweep", "two.yaml", "workers=2", *small)
    assert swept.returncode == 0, swept.stderr
    assert (installed.here / "outputs/sweep-two/outcome.md").is_file()
    shipped = installed("lsp", "sweep", "sweeps/beta.yaml", "nope=1")
    assert shipped.returncode == 1 and "nope=1: no such setting" in shipped.stderr
    code = "import lsp; print(lsp.load('outputs/sweep-two/seed-1').rows().num_rows)"
    assert installed("python", "-c", code).stdout == "4\n"
