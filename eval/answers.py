"""Who answers, and their answers: names of models and instructions go in, texts come out.

Answers are written once, and gone on with after a kill.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from eval.types import Instruction
from eval.win_rate import OVERALL
from lsp.contracts import Engine
from lsp.errors import RunError
from lsp.files import lock
from lsp.rollout.settings import Vllm
from lsp.run.checkpoint import newest_checkpoint
from lsp.run.folder import places_of_runs, read_run, run_named, weights_identity
from lsp.settings.config import local_model_folder
from lsp.tools.heartbeat import at
from lsp.tools.reach import hub_options
from lsp.tools.rows import (
    is_file_of_rows,
    is_saved_folder,
    read_rows,
    unreadable,
    without_ending,
)
from lsp.tracking.reader import read_json_lines
from lsp.tracking.wandb import silent_server

ARTIFACT, HUB = "wandb:", "hub:"
COLUMNS = (("instruction", "output"), ("prompt", "response"))
"""Of a file of answers: what was asked, and what was answered."""
ALIKE = 0.9
"""How much of two instructions is the same, at least, where one may stand for the other."""
SERVER = Vllm(
    concurrency=256, timeout_seconds=3600.0, max_tries=6, dtype=None, tolerance=None, folder=None
)
"""How a vLLM server is asked for answers."""


@dataclass(frozen=True)
class Side:
    """Who answers. ``model`` is a folder or a Hub id, ``revision`` of the latter; ``file`` answers
    that are there already; ``run`` the run folder that the model comes from; ``artifact`` the W&B
    artifact that ``model`` is downloaded from before it is loaded. ``identity``: what answers,
    weights by hash. ``trust_remote_code``: Python files that came with the model are run."""

    name: str
    model: str | None = None
    file: Path | None = None
    run: Path | None = None
    artifact: str | None = None
    identity: str = ""
    revision: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Sampling:
    """How answers are written. ``url``: by a vLLM server that runs a model of the same shape and is
    given the weights (docs/engines.md); None: in this process."""

    temperature: float
    max_new_tokens: int
    max_rows: int
    dtype: str
    device: str
    date_string: str | None
    template_kwargs: Mapping[str, Any]
    seed: int
    url: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What answers depend on: whether a server wrote them, and not which one."""
        same = {name: value for name, value in vars(self).items() if name != "url"}
        return same | ({"engine": "vllm"} if self.url else {})


def resolve_side(name: str, runs_root: str, look_up: bool = True) -> Side:
    """A run (its newest checkpoint), a model folder, a file of answers, a W&B artifact
    (``wandb:[entity/]project/model-<run id>:latest``), or else a Hub id, ``owner/name``.
    ``look_up``: ask the Hub what that stands for now; a dry run need not. Raises RunError for one
    that is not there."""
    if name.startswith(ARTIFACT):
        artifact = find_artifact(name)
        version = f"{artifact.name.partition(':')[0]}-{artifact.version}"
        folder = Path(runs_root) / "artifacts" / version
        return Side(version, str(folder), artifact=name, identity=artifact.digest)
    return local_side(name, runs_root) or _hub_side(name, "main", look_up)


def local_side(name: str, runs_root: str) -> Side | None:
    """What a name stands for here; None where it may be one of W&B's or of the Hub's. Asks nobody.
    Raises RunError for what can be none of them."""
    if name.startswith(ARTIFACT):
        return None
    if is_file_of_rows(name) or is_saved_folder(Path(name)):
        path = Path(name).resolve()
        if reason := unreadable(path):
            raise RunError(f"{name} is to be a file of answers, and {reason}")
        # Files of many models bear one name; their folders tell them apart.
        return Side(f"{path.parent.name}-{without_ending(path)}", file=path)
    if (run := run_named(name, runs_root)) is not None:
        checkpoint = newest_checkpoint(run)
        identity = weights_identity(checkpoint)
        return Side(read_run(run)["id"], str(checkpoint), run=run, identity=identity)
    folder = local_model_folder(name)
    if folder is None:
        if re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) and not name.startswith("."):
            return None
        looked = ", ".join(f"{place}/" for place in places_of_runs(runs_root))
        raise RunError(
            f"{name} is neither a run (looked here and in {looked}), a model folder nor a file of"
            " answers; a model of the Hub is <owner>/<name>"
        )
    if not (folder / "config.json").is_file():
        raise RunError(f"{name} is neither a run, a model folder nor a file of answers")
    return Side(name, model=name, identity=weights_identity(folder))


def _hub_side(name: str, revision: str, look_up: bool) -> Side:
    revision = hub_commit(name, revision) if look_up else revision
    return Side(name, model=name, identity=f"{name}@{revision}", revision=revision)


def hub_commit(name: str, revision: str) -> str:
    """The commit that a branch or tag stands for now. Raises RunError where it cannot be told."""
    here = f"{name} is neither a run nor a model folder here"
    problem = f"{here}, nor can its revision {revision!r} be looked up on the Hub"
    # <cache>/snapshots/<commit>/config.json; offline the commit that was downloaded last.
    return _from_hub(name, "config.json", problem, revision=revision).parent.name


def _from_hub(repository: str, file: str, problem: str, **options: str) -> Path:
    """A file of the Hub, downloaded once. Raises RunError that begins with ``problem``."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file, **options, **hub_options()))
    except Exception as error:  # the hub's client has no one class of errors, and httpx its own
        advice = "check the name, your access and the network, or give a local one"
        raise RunError(f"{problem} ({type(error).__name__}: {error!s:.200}); {advice}") from error


def find_artifact(name: str) -> Any:
    """A W&B model artifact by ``wandb:<path>``; nothing is downloaded yet."""
    import wandb

    if reason := silent_server():
        raise RunError(f"{name} cannot be had from W&B: it cannot be reached ({reason})")
    try:
        return wandb.Api().artifact(name.removeprefix(ARTIFACT), type="model")
    except (wandb.errors.Error, ValueError) as error:
        raise RunError(f"{name} cannot be had from W&B: {error}") from error


def base_side(side: Side, look_up: bool = True) -> Side:
    """A run's base model, of the revision that it took. Raises RunError where it cannot be told."""
    if side.run is None:
        problem = f"{side.name} is no run, so its base is not known"
        raise RunError(f"{problem}: give baseline=<model or answers>")
    run = read_run(side.run)
    model, base = run["model"], run["base"]
    if base.startswith(f"{model}@"):
        return _hub_side(model, base.removeprefix(f"{model}@"), look_up)
    folder = local_model_folder(model)
    if folder is None or not folder.is_dir() or weights_identity(folder) != base:
        problem = "is not there any more, or has changed since the run began"
        advice = "restore it, or give baseline=<model or answers>"
        raise RunError(f"the base model of {side.run} ({model}) {problem}; {advice}")
    return Side(model, model=model, identity=base)


def local_file(name: str) -> Path:
    """A file here, or one of a data set on the Hub: ``hub:<owner>/<data set>/<file>``, downloaded
    once. Raises RunError where it cannot be had."""
    if not name.startswith(HUB):
        return Path(name)
    repository, _, file = name.removeprefix(HUB).rpartition("/")
    return _from_hub(repository, file, f"{name} cannot be had from the Hub", repo_type="dataset")


def read_instructions(data: str) -> list[Instruction]:
    """A benchmark from a file of rows, here or on the Hub. Raises RunError for what would fail
    later: a column that lacks, an instruction that stands twice, text that is no Unicode."""
    rows = read_rows(local_file(data))
    if not rows:
        raise RunError(f"{data} holds no instructions")
    without_set = sum("dataset" not in row for row in rows)
    if without_set not in (0, len(rows)):
        raise RunError(f"{data}: {without_set} of {len(rows)} rows have no 'dataset'")
    instructions = []
    for number, row in enumerate(rows):
        source, text = row.get("dataset", "all"), row.text("instruction")
        if not isinstance(source, str) or not source.isprintable() or source in ("", OVERALL):
            name = f"name of a set (printable text, and not {OVERALL!r}, which is the total)"
            raise RunError(f"{row.place}: dataset={source!r} is no {name}")
        instructions.append(Instruction(number, source, text))
    if len({instruction.text for instruction in instructions}) < len(rows):
        raise RunError(f"{data}: some instructions stand twice, so answers cannot be told apart")
    return instructions


@dataclass(frozen=True)
class Ready:
    """Answers in the instructions' order. ``nearest``: instruction -> the one in the file whose
    answer was taken for it, where no other is nearer and none is the same."""

    outputs: list[str]
    nearest: dict[str, str]


def ready_answers(file: Path, instructions: Sequence[Instruction]) -> list[str]:
    """Answers from a file with columns instruction and output, or prompt and response, matched by
    the first. Raises RunError where one is missing or stands twice."""
    return match_answers(file, instructions).outputs


def match_answers(
    file: Path, instructions: Sequence[Instruction], nearest: bool | None = None
) -> Ready:
    """``ready_answers``; ``nearest``: an instruction without an answer gets that of the nearest one
    in the file which no other instruction has, if they are alike (ALIKE); None: nobody can ask
    for that."""
    by_text: dict[str, str] = {}
    for row in read_rows(file):
        is_prompt = "prompt" in row and "instruction" not in row
        asked, answered = COLUMNS[1] if is_prompt else COLUMNS[0]
        instruction = row.text(asked)
        if instruction in by_text:
            raise RunError(f"{row.place}: its {asked} stands twice")
        by_text[instruction] = row.text(answered, may_be_empty=True)
    free = set(by_text) - {i.text for i in instructions}
    missing = [i.text for i in instructions if i.text not in by_text]
    taken: dict[str, str] = {}
    for text in missing if nearest else []:
        if close := get_close_matches(text, sorted(free), 1, ALIKE):
            taken[text] = close[0]
            free.discard(close[0])
    if left := [text for text in missing if text not in taken]:
        problem = f"{file} has no answer to {len(left)} of {len(instructions)} instructions"
        example = f"for instance {left[0][:80]!r}"
        if close := get_close_matches(left[0], sorted(free), 1, ALIKE):
            both = enumerate(zip(left[0], close[0], strict=False))
            same = next((i for i, (a, b) in both if a != b), min(len(left[0]), len(close[0])))
            words = f"{left[0][same : same + 40]!r}, and there {close[0][same : same + 40]!r}"
            fix = "" if nearest is None else ", or take it: benchmark.nearest=true"
            raise RunError(
                f"{problem}, {example}; it has one that is nearly the same: from"
                f" character {same} on {words}. Mend the file{fix}"
            )
        raise RunError(f"{problem}, {example}; it is of another benchmark or not complete")
    return Ready([by_text[taken.get(i.text, i.text)] for i in instructions], taken)


def write_answers(
    side: Side, instructions: Sequence[Instruction], sampling: Sampling, path: Path
) -> list[str]:
    """Let a model answer, ``max_rows`` instructions at a time; what the file already holds (of a
    run that was killed) is kept. A second process that wants the same file waits for the first.
    Raises ValueError where the model cannot be loaded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.with_suffix(".lock")):
        answers = answers_so_far(path)
        missing = [i for i in instructions if i.index not in answers]
        if missing:
            with path.open("ab") as stream:
                stream.truncate(path.read_bytes().rfind(b"\n") + 1)  # cuts a line of a kill off
                for i, text in _generated(side, missing, sampling):
                    answers[i.index] = text
                    row = {"index": i.index, "dataset": i.source, "instruction": i.text}
                    row |= {"output": text, "generator": side.name}
                    stream.write(json.dumps(row).encode() + b"\n")
                    stream.flush()
    return [answers[i.index] for i in instructions]


class _Answer(TypedDict):
    index: int
    output: str


ANSWER = TypeAdapter(_Answer)


def answers_so_far(path: Path) -> dict[int, str]:
    """Index -> answer of a file of ``write_answers``, without a line that a kill cut short."""
    return {row["index"]: row["output"] for row in read_json_lines(path, ANSWER)}


def _generated(
    side: Side, instructions: Sequence[Instruction], sampling: Sampling
) -> Iterator[tuple[Instruction, str]]:
    """(instruction, answer) pairs, a chunk at a time."""
    from lsp.model.chat import ChatFormat
    from lsp.model.device import choose_device
    from lsp.model.language_model import end_token_ids, load_model
    from lsp.model.processes import ALONE
    from lsp.rollout.in_process import InProcessEngine
    from lsp.rollout.vllm import VllmEngine
    from lsp.types import DrawKey

    if side.artifact is not None:
        find_artifact(side.artifact).download(root=side.model)
    at("loading the model")
    dtype, device = sampling.dtype, choose_device(sampling.device)
    model, tokenizer = load_model(side.model, dtype, device, side.revision, side.trust_remote_code)
    chat = ChatFormat(tokenizer, sampling.date_string, sampling.template_kwargs)
    own = InProcessEngine(tokenizer, end_token_ids(model, chat), sampling.max_rows)
    engine: Engine = own
    if sampling.url is not None:
        engine = VllmEngine(SERVER, own, [sampling.url.rstrip("/")], dtype)
        engine.sync(model, 0, ALONE)
    limit = sampling.max_new_tokens
    for start in range(0, len(instructions), sampling.max_rows):
        at(f"{start} of {len(instructions)} written")
        chunk = instructions[start : start + sampling.max_rows]
        prompts = chat.encode([[("user", instruction.text)] for instruction in chunk])
        key = DrawKey(sampling.seed, chunk[0].index, "evaluation")
        written = engine.generate(model, prompts, 1, limit, sampling.temperature, key)
        for instruction, (completion,) in zip(chunk, written, strict=True):
            yield instruction, chat.answer_of(completion.text)
