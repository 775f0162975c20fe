"""Settings go in, what an evaluation will do comes out, before anything loads or is paid for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.answers import (
    Sampling,
    Side,
    answers_file,
    answers_so_far,
    base_side,
    ready_answers,
    resolve_side,
)
from eval.contracts import EvaluationContext, JudgeSettings
from eval.settings import EvaluateConfig
from eval.spending import prices
from eval.template import read_template
from eval.types import Instruction, Pair
from eval.win_rate import seeded_switch
from lsp.errors import RunError


@dataclass(frozen=True)
class Plan:
    """``answer_files``: where the model's and the baseline's answers are or will be."""

    instructions: Sequence[Instruction]
    model: Side
    base: Side
    folder: Path
    answer_files: tuple[Path, Path]
    sampling: tuple[Sampling, Sampling]

    def pairs(self, ours: Sequence[str], theirs: Sequence[str]) -> list[Pair]:
        """The instructions with the model's and the baseline's answers."""
        return [
            Pair(i.index, i.source, i.text, *answers)
            for i, *answers in zip(self.instructions, ours, theirs, strict=True)
        ]


def make_plan(config: EvaluateConfig) -> Plan:
    """Raises RunError for sides, benchmarks and templates that cannot be used."""
    look_up, benchmark = not config.dry_run, config.benchmark
    model = resolve_side(config.run, config.runs_root, look_up)
    baseline = config.baseline
    base = (
        resolve_side(baseline, config.runs_root, look_up) if baseline else base_side(model, look_up)
    )
    trust = config.trust_remote_code
    model, base = (replace(side, trust_remote_code=trust) for side in (model, base))
    instructions = benchmark.build(EvaluationContext(config))
    if config.judge.chat:
        read_template(config.judge.template)
    shared = Path(config.runs_root) / "answers"
    place = model.run or Path(config.runs_root) / "eval" / model.name.replace("/", "--")
    answers_folder = folder = place / "eval" / benchmark.name
    sampling = Sampling(
        benchmark.temperature,
        benchmark.max_new_tokens,
        config.max_rows,
        config.dtype,
        config.device,
        config.date_string,
        seed=0,
    )
    samplings = (sampling, sampling)
    if config.control:
        if base.file is not None:
            raise RunError(
                f"control=true lets {base.name} answer twice, and a file of answers cannot; name"
                " its model with baseline=…"
            )
        model = replace(base, name=f"{base.name}, a second sample")
        samplings = (replace(sampling, seed=1), sampling)
        answers_folder, folder = shared, folder / "control"
    for side in (model, base):
        if side.file is not None:
            ready_answers(side.file, instructions)
    files = tuple(
        side.file or answers_file(side, instructions, how, where)
        for side, how, where in (
            (model, samplings[0], answers_folder),
            (base, samplings[1], shared),
        )
    )
    return Plan(instructions, model, base, folder, files, samplings)


def orders_of(judge: JudgeSettings, pair: Pair) -> list[bool]:
    """Whether the model's answer is shown first, for each call. The seeded order of AlpacaEval
    shows the baseline first unless it switches."""
    switched = seeded_switch(pair.instruction, judge.order_seed)
    return [switched, not switched] if judge.order == "both" else [switched]


def plan_text(config: EvaluateConfig, plan: Plan) -> str:
    """Calls, tokens and dollars: of the answers that are there, and of answers of half the limit
    where there are none yet."""
    lines = [f"{plan.model.name} against {plan.base.name}, judged by {config.judge.model}"]
    lines.append(f"  {len(plan.instructions)} instructions")
    lines += _costs(config, plan) if config.judge.chat else ["  no calls, no cost"]
    return "\n".join([*lines, f"  results in {plan.folder}"])


def _costs(config: EvaluateConfig, plan: Plan) -> list[str]:
    guess = "x" * (2 * config.benchmark.max_new_tokens)  # four characters a token, half the limit
    sides = []
    for side, file in zip((plan.model, plan.base), plan.answer_files, strict=True):
        if side.file is not None:
            sides.append(ready_answers(file, plan.instructions))
        else:
            written = answers_so_far(file)
            sides.append([written.get(i.index, guess) for i in plan.instructions])
    guessed = sum(answer is guess for answers in sides for answer in answers)
    differing = [p for p in plan.pairs(*sides) if not p.identical or p.model_output is guess]
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
    tokens, how = count_tokens(judge, prompts)
    price = prices(judge.model)
    if price.input is None:
        dollars = "dollars unknown: the judge is not in conf/evaluate/judges.json"
    else:
        dollars = f"{price.usd(tokens, len(prompts) * judge.max_tokens):.2f} dollars (judges.json)"
    return f"  {len(prompts)} calls, {tokens:,} prompt tokens ({how}), {dollars}"


def count_tokens(judge: JudgeSettings, texts: Sequence[str]) -> tuple[int, str]:
    """(tokens of texts, how they were counted): by the judge's own tokenizer where it is named or
    known and can be loaded, else four characters a token."""
    if judge.tokenizer is not None:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(judge.tokenizer)
        except (OSError, ValueError) as error:
            raise RunError(
                f"judge.tokenizer={judge.tokenizer} cannot be loaded: {error}"
            ) from error
        rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return sum(map(len, rows)), f"counted with {judge.tokenizer}"
    try:
        import tiktoken

        rows = tiktoken.encoding_for_model(judge.model).encode_batch(
            list(texts), disallowed_special=()
        )
        return sum(map(len, rows)), "counted with tiktoken"
    except ImportError:
        why = "pip install '.[judge]' counts OpenAI's"
    except KeyError:
        why = "judge.tokenizer=… counts them"
    except OSError as error:  # its vocabulary is a download
        why = f"the vocabulary did not load: {error!r:.80}"
    return sum(map(len, texts)) // 4, f"four characters a token; {why}"
