"""One GRPO step of ours against one of TRL's, on the same model folder, rows and tokens.

    pip install '.[bench]'
    python -m tests.bench.step --size tiny|small [--ragged] [--lora] [--repeats 3] [--json]
    python -m tests.bench.step --model <folder> [--ragged] [--lora]   # a real model's
    python -m tests.bench.step --size small --lsp        # one LSP step by phase; it has no peer

Each measurement is a process of its own; ours and TRL's alternate under the same process settings.
Seconds are CPU-seconds of all threads, a step (wall beside them); memory is the process's peak, its
imports included. A prompt is answered G = 8 times. Models of a ``--size`` have random weights, and
prompts of random words; a ``--model`` is asked for stories that go on to the limit of 64 tokens.
Our micro-batches hold all 32 rows on tiny and 8 elsewhere. TRL runs with 8 rows or 32 in a
micro-batch, whichever is faster, and with as many as ours for memory, in fp32. Gradient
checkpointing, which costs time and saves memory, is off for TRL, and on for ours on tiny alone,
unless ``--checkpointing`` says otherwise. Ragged: so many of the vocabulary's ids end an answer
that the mean length is a third of the limit; of a ``--model`` half of the prompts want a short one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from tests.bench.models import SIZES, build_model, prompts_of, reward_of
from tests.bench.phases import Phases

ROOT = Path(__file__).parents[2]
QUERIES, SAMPLES = 4, 8
BETA, RATE = 0.05, 1e-6


def our_config(
    folder: str, size: str, lora: bool, lsp: bool, checkpointing: bool, dtype: str = "float32"
):
    """The settings of our step."""
    from lsp.settings.compose import compose

    shape = SIZES[size]
    prompts = shape["rows"] // SAMPLES
    budget = prompts * shape["prompt"] + shape["rows"] * shape["limit"]
    overrides = [
        f"method={'lsp' if lsp else 'grpo'}", f"model.name={folder}", "eval=none", "tracker=none",
        f"num_queries={QUERIES}", f"group_size={SAMPLES}", f"optim.lr={RATE}",
        "optim.warmup_steps=0", f"method.beta={BETA}", "method.kl_estimator=k3",
        f"rollout.max_new_tokens={shape['limit']}", f"rollout.max_query_tokens={shape['limit']}",
        f"optim.micro_batch_tokens={budget}", f"rollout.max_rows={QUERIES * SAMPLES}",
        f"optim.gradient_checkpointing={checkpointing}", "runtime.threads=null",
        f"model.dtype={dtype}",
        *([] if lsp else ["method.log_quality=false"]),
        *(["model.lora.rank=16"] if lora else []),
    ]  # fmt: skip
    return compose(overrides)


def ours(
    folder: str,
    size: str,
    lora: bool,
    lsp: bool,
    checkpointing: bool,
    dtype: str = "float32",
    ragged: bool = False,
) -> dict:
    from lsp.algorithm import Clock, play_queries
    from lsp.batch import training_rows
    from lsp.contracts import Reward
    from lsp.learner import Learner
    from lsp.players import Players, load_players
    from lsp.run.init import resolve_init
    from lsp.types import Query

    class EvenWords(Reward):
        def __call__(self, queries, answers) -> list[float]:
            return [reward_of(answer) for answer in answers]

    shape = SIZES[size]
    config = our_config(folder, size, lora, lsp, checkpointing, dtype)
    players = load_players(config, resolve_init(config))
    players = replace(players, reward=EvenWords())
    learner = Learner(players, config)
    texts = prompts_of(size, QUERIES, ragged)
    phases = Phases()
    if lsp:  # split by role
        phases.wrap(Players, "ask", "Challenger writes")
        phases.wrap(Players, "answers", "Solver writes")
        phases.wrap(players.self_judge, "score", "judge")
        inner = learner._backward

        def backward(batch, ref, stats) -> None:
            with phases.phase(f"{batch.rows[0].role}'s loss"):
                inner(batch, ref, stats)

        learner._backward = backward
    else:
        phases.wrap(players.engine, "generate", "generation")
    phases.wrap(learner, "update", "optimizer" if lsp else "update")
    tokens = 0

    def step(number: int) -> None:
        nonlocal tokens
        if lsp:
            queries = players.step_queries(number)
        else:
            queries = [Query(f"q{i}", text, "dataset") for i, text in enumerate(texts)]
        play = play_queries(players, config, queries, number, Clock())
        rows = training_rows(play, config.method, QUERIES, shape["limit"], shape["limit"])
        learner.update(rows, number)
        tokens += sum(len(row.completion_ids) * row.count for row in rows)

    step(1)
    phases.start()
    tokens = 0
    for number in range(2, 2 + shape["steps"]):
        step(number)
    return phases.result(shape["steps"], tokens=tokens / shape["steps"])


def trl(
    folder: str,
    size: str,
    lora: bool,
    rows: int,
    checkpointing: bool,
    queries: int = QUERIES,
    samples: int = SAMPLES,
    gpu: bool = False,
    ragged: bool = False,
) -> dict:
    """``gpu``: there, in bfloat16."""
    import warnings

    warnings.filterwarnings("ignore")
    import datasets
    import transformers
    from trl import GRPOConfig, GRPOTrainer

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    shape = SIZES[size]
    steps = shape["steps"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dtype = "bfloat16" if gpu else "float32"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.train()
    phases = Phases()
    tokens = 0

    def reward(completions, **kwargs):
        nonlocal tokens
        tokens += sum(len(ids) for ids in kwargs["completion_ids"])
        texts = (own if isinstance(own, str) else own[0]["content"] for own in completions)
        return [reward_of(text) for text in texts]

    class Warm(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            nonlocal tokens
            if state.global_step == 1:
                phases.start()
                tokens = 0

    with tempfile.TemporaryDirectory() as out:
        arguments = GRPOConfig(
            output_dir=out, max_steps=1 + steps, learning_rate=RATE, beta=BETA, bf16=gpu,
            per_device_train_batch_size=rows, gradient_accumulation_steps=queries * samples // rows,
            num_generations=samples, max_completion_length=shape["limit"], temperature=1.0,
            scale_rewards="none", loss_type="grpo", use_bias_correction_kl=False,
            gradient_checkpointing=checkpointing, report_to=[], save_strategy="no",
            logging_steps=10**6, disable_tqdm=True, use_cpu=not gpu,
            dataloader_pin_memory=False, weight_decay=0.01,
        )  # fmt: skip
        prompts = prompts_of(size, queries, ragged)
        if size == "model":  # as a turn of its template
            prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
        data = datasets.Dataset.from_dict({"prompt": prompts})
        trainer = GRPOTrainer(
            model=model, reward_funcs=reward, args=arguments, train_dataset=data,
            processing_class=tokenizer, callbacks=[Warm()], peft_config=_lora() if lora else None,
        )  # fmt: skip
        phases.wrap(trainer, "_generate_single_turn", "generation")
        phases.wrap(trainer, "_generate_and_score_completions", "reference and rest of scoring")
        phases.wrap(trainer, "compute_loss", "forward")
        phases.wrap(trainer.accelerator, "backward", "backward")
        trainer.train()
    return phases.result(steps, tokens=tokens / steps)


def _lora():
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def measure(who: str, folder: str, options: argparse.Namespace, rows: int) -> dict:
    """One worker process; its last line is its result."""
    command = [sys.executable, "-m", "tests.bench.step", "--size", options.size,
               "--worker", who, "--folder", folder, "--rows", str(rows)]  # fmt: skip
    command += [flag for flag in ("--lora", "--lsp", "--ragged") if getattr(options, flag[2:])]
    command += ["--checkpointing", options.checkpointing, "--dtype", options.dtype]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0",
                   "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{who} failed:\n{done.stderr[-4000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    print(
        f"  {who:<8} {rows:>3} rows  {result['cpu_seconds']:8.2f} CPU-s a step"
        f"  {result['wall_seconds']:8.2f} s  {result['peak_mb']:8.0f} MB"
        f"  {result['tokens']:6.0f} tokens  "
        + "  ".join(f"{name} {seconds:.2f}" for name, seconds in result["phases"].items()),
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--size", choices=SIZES)
    which.add_argument("--model", type=Path, help="a folder written by save_pretrained")
    for flag in ("ragged", "lora", "lsp", "json"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--checkpointing", choices=("ours", "both", "none"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, choices=(8, 32), help="of our micro-batches")
    options = parser.parse_args()
    options.size = options.size or "model"
    options.rows = options.rows or SIZES[options.size]["rows"]
    if options.size == "model" and options.lsp:
        parser.error("--lsp wants a --size, whose Challenger's prompt is known")
    options.checkpointing = options.checkpointing or SIZES[options.size]["checkpointing"]
    if options.worker:
        print(json.dumps(work(options)))
        return
    if options.model:
        compare(str(options.model.resolve()), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder), options.size, options.ragged or options.lsp)
        if options.lsp:
            runs = [measure("ours", folder, options, options.rows) for _ in range(options.repeats)]
            if options.json:
                print(json.dumps({"size": options.size, "lsp": True, "ours": runs}))
            return
        compare(folder, options)


def work(options: argparse.Namespace) -> dict:
    """One measurement, in this process."""
    folder, size, lora = options.folder, options.size, options.lora
    if options.worker == "ours":
        SIZES[size]["rows"] = options.rows
        again = options.checkpointing != "none"
        return ours(folder, size, lora, options.lsp, again, options.dtype, options.ragged)
    again = options.checkpointing == "both"
    return trl(folder, size, lora, options.rows, again, ragged=options.ragged)


def compare(folder: str, options: argparse.Namespace) -> None:
    """The first repeat tells how many rows TRL is faster with; the others leave the slower out."""
    runs = defaultdict(list)
    same, choices = options.rows, sorted({8, QUERIES * SAMPLES})
    best = 0
    for _ in range(options.repeats):
        runs["ours"].append(measure("ours", folder, options, same))
        for rows in {best, same} if best else choices:
            runs[rows].append(measure("trl", folder, options, rows))
        best = best or min(choices, key=lambda rows: runs[rows][0]["cpu_seconds"])
    ours_cpu = [run["cpu_seconds"] for run in runs["ours"]]
    ratios = [run["cpu_seconds"] / own for run, own in zip(runs[best], ours_cpu, strict=True)]
    memory = [
        run["peak_mb"] / own["peak_mb"] for run, own in zip(runs[same], runs["ours"], strict=True)
    ]
    name = (
        options.size + (", ragged" if options.ragged else "") + (", LoRA" if options.lora else "")
    )
    print(
        f"{name}: TRL ({best} rows) ÷ ours {statistics.median(ratios):.2f} in CPU-seconds"
        f" ({min(ratios):.2f} to {max(ratios):.2f}); peak memory, {same} rows in a micro-batch,"
        f" {statistics.median(memory):.2f} ({min(memory):.2f} to {max(memory):.2f})"
    )
    if options.json:
        print(json.dumps({
            "size": options.size, "ragged": options.ragged, "lora": options.lora,
            "ratio_cpu_seconds": statistics.median(ratios),
            "ratio_peak_memory": statistics.median(memory),
            "ours": runs["ours"], "trl": runs[best], "trl_for_memory": runs[same],
        }))  # fmt: skip


if __name__ == "__main__":
    main()
