"""What a machine has: its memory, the limits of groups above a process, signs of a GPU."""

import pytest

from lsp.tools.machine import may_have_gpu, memory_bytes, multiplies_bfloat16

GB = 2**30


@pytest.fixture
def machine(tmp_path):
    """Makes a root with these files, and says what memory it has."""

    def made(**files):
        for name, text in files.items():
            place = tmp_path / name.replace("__", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        return memory_bytes(tmp_path)

    return made


MEMINFO = {"proc__meminfo": f"MemTotal:       {16 * 2**20} kB\nMemFree:         1 kB\n"}


def test_without_limits_it_is_the_machines_memory(machine):
    assert machine(**MEMINFO) == 16 * GB
    assert machine(proc__self__cgroup="0::/\n", sys__fs__cgroup__memory="") == 16 * GB


def test_the_least_limit_of_a_group_and_those_above_it_counts(machine):
    top = "sys__fs__cgroup"
    job = {"proc__self__cgroup": "0::/slurm/job_1\n", f"{top}__slurm__job_1__memory.max": "max\n"}
    assert machine(**MEMINFO, **job) == 16 * GB
    assert machine(**{f"{top}__slurm__memory.max": f"{4 * GB}\n"}) == 4 * GB
    assert machine(**{f"{top}__slurm__job_1__memory.max": f"{3 * GB}\n"}) == 3 * GB
    assert machine(**{f"{top}__slurm__job_1__memory.max": f"{64 * GB}\n"}) == 4 * GB


def test_cgroups_of_version_1_and_a_container_that_sees_the_top_alone(machine):
    groups = "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n"
    limit = "sys__fs__cgroup__memory__memory.limit_in_bytes"
    assert machine(**MEMINFO, proc__self__cgroup=groups, **{limit: f"{2**63 - 4096}\n"}) == 16 * GB
    assert machine(**{limit: f"{2 * GB}\n"}) == 2 * GB


def test_any_sign_of_a_gpu_is_one(tmp_path):
    assert not may_have_gpu(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert may_have_gpu(tmp_path)


def test_this_machine_has_some(machine):
    assert memory_bytes() > GB / 2


@pytest.mark.parametrize(
    "flags, says", [("fpu avx512f avx512_bf16", True), ("amx_tile amx_bf16", True), ("fpu", False)]
)
def test_a_cpus_flags_say_whether_it_multiplies_bfloat16(machine, tmp_path, flags, says):
    machine(proc__cpuinfo=f"model name\t: bf16\nflags\t\t: {flags}\nbugs\t: none\n")
    assert multiplies_bfloat16(tmp_path) is says


def test_where_no_flags_are_listed_nothing_is_known(machine, tmp_path):
    assert multiplies_bfloat16(tmp_path) is None
    machine(proc__cpuinfo="processor\t: 0\nFeatures\t: asimd\n")  # not x86
    assert multiplies_bfloat16(tmp_path) is None
