"""Settings go in, what an evaluation will do comes out, before anything loads or is paid for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.answers import Sampling, Side, answers_so_far, base_side, ready_answers, resolve_side
from eval.contracts import EvaluationContext, JudgeSettings
from eval.settings import EvaluateConfig
from eval.template import read_template
from eval.types import Instruction, Pair
from eval.win_rate import seeded_switch
from lsp.errors import RunError
from lsp.judging.spending import prices


@dataclass(frozen=True)
class Answers:
    """Who answers, how, and the file where the answers are or will be."""

    side: Side
    sampling: Sampling
    file: Path


@dataclass(frozen=True)
class Plan:
    """``folder``: where results go."""

    instructions: Sequence[Instruction]
    model: Answers
    base: Answers
    folder: Path

    def pairs(self, model_outputs: Sequence[str], base_outputs: Sequence[str]) -> list[Pair]:
        rows = zip(self.instructions, model_outputs, base_outputs, strict=True)
        return [Pair(i.index, i.source, i.text, *outputs) for i, *outputs in rows]


def make_plan(config: EvaluateConfig) -> Plan:
    """Raises RunError for sides, benchmarks and templates that cannot be used."""
    look_up, benchmark, baseline = not config.dry_run, config.benchmark, config.baseline
    runs_root, root = config.runs_root, Path(config.runs_root)
    model = resolve_side(config.run, runs_root, look_up)
    base = resolve_side(baseline, runs_root, look_up) if baseline else base_side(model, look_up)
    instructions = benchmark.build(EvaluationContext(config))[: config.first]
    if config.judge.chat:
        read_template(config.judge.template)
    place = model.run or root / "eval" / model.name.replace("/", "--")
    answers_folder = folder = place / "eval" / benchmark.name
    seed, shared = 0, root / "answers"
    if config.control:
        if base.file is not None:
            problem = f"control=true lets {base.name} answer twice, and a file of answers cannot"
            raise RunError(f"{problem}; name its model with baseline=…")
        model = replace(base, name=f"{base.name}, a second sample")
        seed, answers_folder, folder = 1, shared, folder / "control"

    for file in filter(None, (model.file, base.file)):
        ready_answers(file, instructions)
    sides = (
        planned_answers(config, instructions, model, seed, answers_folder),
        planned_answers(config, instructions, base, 0, shared),
    )
    return Plan(instructions, *sides, folder)


def planned_answers(
    config: EvaluateConfig, instructions: Sequence[Instruction], side: Side, seed: int, where: Path
) -> Answers:
    """Written ones are named by all that they depend on, the weights by their hash, so that another
    run finds the base's again and a changed model does not."""
    sampling = Sampling(
        config.benchmark.temperature,
        config.benchmark.max_new_tokens,
        config.max_rows,
        config.dtype,
        config.device,
        config.date_string,
        config.template_kwargs,
        seed,
        config.url,
    )
    name = digest([side.identity, sampling.identity, [i.text for i in instructions]])
    side = replace(side, trust_remote_code=config.trust_remote_code)
    return Answers(side, sampling, side.file or where / f"answers-{name}.jsonl")


def digest(value: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def orders_of(judge: JudgeSettings, pair: Pair) -> list[bool]:
    """Whether the model's answer is shown first, for each call. The seeded order of AlpacaEval
    shows the baseline first unless it switches."""
    switched = seeded_switch(pair.instruction, judge.order_seed)
    return [switched, not switched] if judge.order == "both" else [switched]


def plan_text(config: EvaluateConfig, plan: Plan) -> str:
    """Calls, tokens and dollars; answers that are not there yet count as half the limit long."""
    sides = f"{plan.model.side.name} against {plan.base.side.name}"
    lines = [f"{sides}, judged by {config.judge.model}", f"  {len(plan.instructions)} instructions"]
    lines += _costs(config, plan) if config.judge.chat else ["  no calls, no cost"]
    return "\n".join([*lines, f"  results in {plan.folder}"])


def _costs(config: EvaluateConfig, plan: Plan) -> list[str]:
    guess = "x" * (2 * config.benchmark.max_new_tokens)  # four characters a token, half the limit
    outputs = []
    for answers in (plan.model, plan.base):
        if answers.side.file is not None:
            outputs.append(ready_answers(answers.file, plan.instructions))
        else:
            written = answers_so_far(answers.file)
            outputs.append([written.get(i.index, guess) for i in plan.instructions])
    guessed = sum(output is guess for side in outputs for output in side)
    differing = [p for p in plan.pairs(*outputs) if not p.identical or p.model_output is guess]
    lines = [cost_text(config.judge, differing)]
    if guessed:
        lines.append(f"  {guessed} answers are not written yet: taken as half the limit's length")
    return lines


def cost_text(judge: JudgeSettings, pairs: Sequence[Pair]) -> str:
    """Calls, tokens and dollars of judging these pairs."""
    template = read_template(judge.template)
    prompts = [
        "\n".join(message["content"] for message in template.messages(*pair.shown(first)))
        for pair in pairs
        for first in orders_of(judge, pair)
    ]
    tokens, counted_by = count_tokens(judge, prompts)
    price = prices(judge.model)
    if price.input is None:
        dollars = "dollars unknown: the judge is not in conf/judges.json"
    else:
        dollars = f"{price.usd(tokens, len(prompts) * judge.max_tokens):.2f} dollars (judges.json)"
    return f"  {len(prompts)} calls, {tokens:,} prompt tokens ({counted_by}), {dollars}"


def count_tokens(judge: JudgeSettings, texts: list[str]) -> tuple[int, str]:
    """(tokens of texts, how they were counted): by the judge's own tokenizer where it is named or
    known and can be loaded, else four characters a token."""
    if judge.tokenizer is not None:
        from transformers import AutoTokenizer

        name = judge.tokenizer
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise RunError(f"judge.tokenizer={name} cannot be loaded: {error}") from error
        rows = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return sum(map(len, rows)), f"counted with {name}"
    try:
        import tiktoken

        encoding = tiktoken.encoding_for_model(judge.model)
        rows = encoding.encode_batch(texts, disallowed_special=())
        return sum(map(len, rows)), "counted with tiktoken"
    except ImportError:
        why = "pip install '.[judge]' counts OpenAI's"
    except KeyError:
        why = "judge.tokenizer=… counts them"
    except OSError as error:  # its vocabulary is a download
        why = f"the vocabulary did not load: {error!r:.80}"
    return sum(map(len, texts)) // 4, f"four characters a token; {why}"
