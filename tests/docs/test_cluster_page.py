"""docs/cluster.md: its command lines are what launchers, settings and the plan accept."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from lsp.model.launcher import check_launch
from lsp.plan.memory import refuse_impossible
from lsp.serve import ServeSettings
from lsp.settings.command import split_settings
from lsp.settings.compose import compose

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
BLOCKS = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGE)
LINES = [
    line
    for kind, block in BLOCKS
    if not kind
    for line in block.replace("\\\n", " ").strip().splitlines()
]


def torchrun(words):
    """(processes in all, words behind run.py), by torch's own parser."""
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(words)
    assert parsed.training_script == "run.py"
    machines = int(parsed.nnodes.split(":")[-1])
    return machines * int(parsed.nproc_per_node), parsed.training_script_args


def accelerate(words, folder, monkeypatch):
    """The same by accelerate's, with the page's own file; what it tells its processes is in the
    environment afterwards."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    for kind, block in BLOCKS:
        if kind == "yaml":
            name = re.match(r"# (\S+)\n", block)[1]
            (folder / name).write_text(block)
    parsed = launch_command_parser().parse_args(words[1:])
    assert parsed.training_script == "run.py"
    with monkeypatch.context() as there:
        there.chdir(folder)
        asked, *_ = _validate_launch_command(launch_command_parser().parse_args(words[1:]))
        told = prepare_multi_gpu_env(asked)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    config = load_config_from_file(str(folder / parsed.config_file))
    assert vars(config).items() >= yaml.safe_load((folder / parsed.config_file).read_text()).items()
    return config.num_processes, parsed.training_script_args


def sbatch(words):
    """The same by the page's script, which hands on what stands behind it."""
    script = next(i for i, word in enumerate(words) if word.endswith(".sh"))
    assert (ROOT / words[script]).is_file()
    options = dict(zip(words[:script:2], words[1:script:2], strict=True))
    return int(options["--nodes"]) * int(options["--gpus-per-node"]), words[script + 1 :]


def settings_of(words):
    """Those of a command line, in their order."""
    return [word for word in words if re.match(r"[a-z][\w.]*=", word)]


@pytest.mark.parametrize("line", [line for line in LINES if "lsp.serve" not in line])
def test_each_line_starts_as_many_processes_as_it_says_with_settings_that_compose_and_fit(
    line, tmp_path, monkeypatch
):
    words = shlex.split(line)
    devices = None
    if words[0].startswith("CUDA_VISIBLE_DEVICES="):
        devices, *words = words
    launcher, *words = words
    read = {"torchrun": torchrun, "sbatch": sbatch}
    read["accelerate"] = lambda words: accelerate(words, tmp_path, monkeypatch)
    processes, overrides = read[launcher](words)
    config = compose(overrides)
    check_launch(config, processes)
    assert config.hardware.gpus == processes
    assert devices is None or len(devices.split(",")) == processes
    refuse_impossible(config)


def test_a_server_has_the_settings_of_the_run_beside_it_and_other_gpus():
    (server,) = (line for line in LINES if "lsp.serve" in line)
    (trainer,) = (line for line in LINES if "rollout.url" in line and line != server)
    own, more = server.split(" -- ")
    assert "lsp.serve start=true python=~/vllm/bin/python " in own
    of_server, named = split_settings(ServeSettings, settings_of(shlex.split(own)))
    assert of_server == ["start=true", "python=~/vllm/bin/python"]
    others = [word for word in settings_of(shlex.split(trainer)) if "hardware.gpus" not in word]
    assert named == others
    assert compose(named).rollout.urls
    taken, free = (shlex.split(line)[0].partition("=")[2].split(",") for line in (server, trainer))
    assert not set(taken) & set(free)
    assert more == f"--tensor-parallel-size {len(taken)}"


def test_each_way_of_starting_a_run_is_on_the_page():
    words = {word for line in LINES for word in shlex.split(line)}
    assert {"torchrun", "accelerate", "sbatch", "lsp.serve"} < words
