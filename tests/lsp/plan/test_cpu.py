"""Plans of runs that compute on this machine's CPU: its memory, and hours from a measured rate."""

import re
import shlex

import pytest
from advice import commands, execute

from lsp.errors import RunError
from lsp.loop.launch import start
from lsp.model.shapes import forward_flops
from lsp.plan.hours import phase_times, total_hours
from lsp.plan.memory import GB, crowding, plan_memory, refuse_impossible
from lsp.plan.step_size import step_size_of
from lsp.plan.text import plan
from lsp.settings.compose import compose

ON_CPU = ["hardware=cpu", "tracker=none"]


@pytest.fixture
def machine(monkeypatch):
    """Says how much memory the machine has, in bytes, and whether there are signs of a GPU."""

    def made(has, gpu=False):
        monkeypatch.setattr("lsp.plan.memory.memory_bytes", lambda: has)
        monkeypatch.setattr("lsp.plan.step_size.may_have_gpu", lambda: gpu)

    return made


def peak_of(*overrides):
    return plan_memory(step_size_of(compose([*ON_CPU, *overrides]))).peak


def test_the_plan_says_how_much_of_the_machine_it_takes(machine):
    machine(2 * peak_of())
    assert f"50% of the {2 * peak_of() / GB:.1f} GB that this machine has" in plan(compose(ON_CPU))
    machine(None)
    assert "this machine has" not in plan(compose(ON_CPU))


def test_what_takes_most_of_the_machine_is_warned_of_in_the_plan_and_at_the_start(
    machine, tmp_path, without_pictures, capsys
):
    shape = [*ON_CPU, "num_steps=1", "num_queries=2", "group_size=2", "eval=none"]
    peak = peak_of(*shape)
    machine(peak / 0.79)
    assert not crowding(compose(shape)) and "warning" not in plan(compose(shape))
    machine(peak / 0.85)
    warning = "warning: the plan takes 85% of this machine's 0.1 GB, and a process may hold"
    assert warning in plan(compose(shape))
    start([*shape, f"run_dir={tmp_path / 'run'}"])
    assert warning in capsys.readouterr().err


def test_what_needs_more_than_the_machine_has_is_refused_with_ways_out(machine, tmp_path, capsys):
    machine(0.9 * peak_of())
    for more in ([], ["dry_run=true"]):
        with pytest.raises(RunError) as raised:
            start([*ON_CPU, f"run_dir={tmp_path / 'run'}", *more])
        said = str(raised.value)
        assert "this run needs 0.1 GB in its phase 'update', and this machine, on whose" in said
        assert "; or choose a smaller model.name, or name the GPU that it is for" in said
        assert "offload" not in said
        # What is said to save saves.
        way = re.search(r"alone, (\S+) saves", said)[1]
        refuse_impossible(compose([*ON_CPU, way]))
    assert "90%" not in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_each_process_on_the_machine_takes_its_share(machine, monkeypatch):
    two = ["num_queries=2", "hardware.gpus=2"]
    machine(1.5 * peak_of(*two))
    with pytest.raises(RunError, match="GB in each of 2 processes in its phase"):
        refuse_impossible(compose([*ON_CPU, *two]))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # the other is on another machine
    refuse_impossible(compose([*ON_CPU, *two]))


def test_where_there_may_be_a_gpu_nothing_is_refused_for_the_cpu(machine):
    machine(1, gpu=True)
    config = compose([])
    refuse_impossible(config)
    assert "not known: name a GPU with hardware.gpu\n" in plan(config)
    with pytest.raises(RunError, match="on whose CPU"):
        refuse_impossible(compose(ON_CPU))
    machine(1)
    with pytest.raises(RunError, match="on whose CPU"):
        refuse_impossible(config)
    refuse_impossible(compose(["hardware.gpu=h100"]))


def test_hours_of_a_cpu_follow_from_the_rate_at_which_it_decodes():
    config = compose([*ON_CPU, "method=grpo", "method.log_quality=true", "num_steps=3600",
                      "hardware.tokens_per_second=1000"])  # fmt: skip
    size = step_size_of(config)
    times, lengths, new = phase_times(size), size.lengths, config.rollout.max_new_tokens
    # One decoded token takes a millisecond and so many operations; all else is at that rate.
    token = forward_flops(size.shape, 1, lengths.solver + new / 2, 1)
    for phase in ("quality", "update"):
        assert times[phase].seconds == pytest.approx(times[phase].flops / token / 1000)
    decoded = size.answers * new
    prefill = times["answers"].flops - decoded * token
    assert times["answers"].seconds == pytest.approx((decoded + prefill / token) / 1000)
    seconds = sum(time.seconds for time in times.values())
    assert total_hours(size) == pytest.approx(seconds)
    said = f"hours     at most {seconds:,.1f} on 1 × this machine's CPU: 1000 tokens a second"
    assert said in plan(config) and "optimizer and evaluation left out" in plan(config)


@pytest.mark.advice("lsp/plan/text.py:_hours", "lsp/settings/config.py:HardwareConfig")
def test_a_rate_that_is_not_known_is_measured_by_the_command_that_is_named(machine, capsys):
    machine(None)
    (command,) = [text for text in commands(plan(compose(ON_CPU))) if "preflight" in text]
    assert command.startswith("python -m lsp.preflight <the same settings>")
    execute(f"python -m lsp.preflight {shlex.join(ON_CPU)}")
    assert "hardware.tokens_per_second=" in capsys.readouterr().out


def test_bfloat16_is_warned_of_on_a_cpu_that_does_not_multiply_it(machine, monkeypatch):
    machine(64 * GB)
    for multiplies, dtype, warned in (
        (False, "bfloat16", True), (False, "float32", False), (True, "bfloat16", False),
        (None, "bfloat16", False),
    ):  # fmt: skip
        monkeypatch.setattr("lsp.plan.memory.multiplies_bfloat16", lambda known=multiplies: known)
        config = compose([*ON_CPU, f"model.dtype={dtype}"])
        warning = "this CPU does not multiply bfloat16 (no avx512_bf16 and no amx_bf16 in"
        assert any(text.startswith(warning) for text in crowding(config)) == warned
