"""A seed goes in, the pocket world's base model comes out: a real Llama that plays every role, not
too well.

    python -m lsp.pocket.pretrain seed=0            # writes lsp/pocket/base, about two minutes
    python -m lsp.pocket.pretrain seed=1 out=outputs/pocket-base-1
    python -m lsp.pocket.pretrain size=1M out=outputs/pocket-base-1m   # a quarter of an hour

Said again with the same settings it goes on after the last 250 steps that it kept; the base is the
same to the bit. On a GPU (``device=cuda``) sums round otherwise, so the base is another one.

The corpus has three parts, one for each role, and no query of the dev and test splits:

* Solver: a query and the answer of a *careless teacher*: right, or, with a probability that
  grows with the length, a lazy one (the argument as it stands). So the right answer is within
  reach for long arguments but a lazy one is more likely: what reinforcement learning can elicit.
* Challenger: legal queries, short ones far more often than long ones (``decay``).
* Judge: the form rubric's score of (query, answer) pairs, most of them near misses (misspelt
  and fused families, wrong arity, stray letters, too long), for a judge that has not seen
  those is exploited by a learning Challenger.
"""

from __future__ import annotations

import math
import random
import string
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from lsp.cli.main import start_module
from lsp.errors import RunError
from lsp.files import replacing, write_json
from lsp.pocket.language import ALPHABET, FAMILIES, LENGTHS, MAX_LENGTH, Task, form_rubric, split
from lsp.settings.command import read_settings
from lsp.settings.compose import compose
from lsp.settings.schema import setting, settings
from lsp.tools.heartbeat import Heartbeat, say, step_words

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from lsp.model.chat import ChatFormat

BASE_FOLDER = Path(__file__).parent / "base"
KEPT = "unfinished.pt"
"""Beside the base to be: settings, weights, optimizer, state of the corpus; gone at the end."""
KEPT_EVERY = 250
LINE_SECONDS = 10.0
"""Between lines of steps."""
ARCHITECTURE = {
    "max_position_embeddings": 128,
    "initializer_range": 0.08,
    "tie_word_embeddings": True,
    "pad_token_id": None,
}
"""Of the Llama, whatever its size."""


class Size(NamedTuple):
    """``lr``: its highest learning rate, which falls as the width grows."""

    hidden: int
    layers: int
    heads: int
    lr: float


SIZES = {
    "0.1M": Size(64, 2, 4, 6e-3),
    "1M": Size(192, 2, 6, 2e-3),
    "10M": Size(512, 3, 8, 7.5e-4),
}
"""Parameters -> shape; the schooling is the same."""
CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and Llama-3-like turn marks; 86 tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|unknown|>"]
    characters = string.ascii_letters + string.digits + " \n<|>{}/.,:;?!'\"-_"
    vocabulary = {token: i for i, token in enumerate([*special, *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        additional_special_tokens=special[2:5],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


@settings
class PretrainSettings:
    """What the corpus holds and how the model learns it; the Solver has the rest of the corpus."""

    seed: int = setting("of weights and corpus", default=0, ge=0, le=2**32 - 1)
    steps: int = setting("updates", default=6000, ge=1, le=10_000_000)
    batch: int = setting("rows of the corpus a step", default=48, ge=1, le=65_536)
    size: Literal["0.1M", "1M", "10M"] = setting("parameters", default="0.1M")
    lr: float | None = setting(
        "highest learning rate; null: the size's own", default=None, ge=1e-12, le=10
    )
    warmup_steps: int = setting("until that rate", default=200, ge=1, le=10_000_000)
    decay: float = setting("of queries, by their length", default=0.7, ge=0.01, le=10)
    careless: tuple[Annotated[float, Field(ge=0, le=1)], ...] = setting(
        "the teacher's chance of a lazy answer, by length 1 to 8",
        default=(0.05, 0.05, 0.1, 0.3, 0.6, 0.8, 0.85, 0.85),
    )
    judge_share: float = setting("of the corpus", default=0.35, ge=0, le=1)
    challenger_share: float = setting("of the corpus", default=0.12, ge=0, le=1)
    judge_weight: float = setting("of its digit in the loss", default=4.0, ge=0, le=1e6)
    device: Literal["cpu", "cuda", "auto"] = setting(
        "auto: a GPU where there is one", default="cpu"
    )
    out: str | None = setting("folder; null: the shipped base's place", default=None)

    @property
    def highest_lr(self) -> float:
        return self.lr or SIZES[self.size].lr

    def record(self) -> dict:
        """What the base is made of."""
        where = ("device", "out")
        record = {key: value for key, value in vars(self).items() if key not in where}
        return record | {"lr": self.highest_lr}


class Corpus:
    """Draws (messages, completion) pairs for the three roles; see the module's docstring."""

    def __init__(self, settings: PretrainSettings):
        self.settings = settings
        # The word is an older name of pretraining: with another the shipped base would be another.
        self.random = random.Random(f"pocket school {settings.seed}")
        self.prompts = compose(["world=pocket"]).prompts
        self.length_weights = [settings.decay**length for length in range(MAX_LENGTH)]

    def batch(self, chat: ChatFormat) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [batch, T], padded with 0, and the weight of each as a target."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        judge, challenger = self.settings.judge_share, self.settings.challenger_share
        roles = [self.judge, self.challenger, self.solver]
        shares = [judge, challenger, 1 - judge - challenger]
        makers = self.random.choices(roles, shares, k=self.settings.batch)
        pairs = [make() for make in makers]
        prompts = chat.encode([messages for messages, _ in pairs])
        answers = chat.encode_text([completion for _, completion in pairs])
        ids, weights = [], []
        for make, prompt, answer in zip(makers, prompts, answers, strict=True):
            first = self.settings.judge_weight if make == self.judge else 1.0
            ids.append(torch.tensor([*prompt, *answer, chat.tokenizer.eos_token_id]))
            weights.append(torch.tensor([0.0] * len(prompt) + [first] + [1.0] * len(answer)))
        return pad_sequence(ids, batch_first=True), pad_sequence(weights, batch_first=True)

    def argument(self, length: int) -> str:
        return "".join(self.random.choices(ALPHABET, k=length))

    def task(self, lengths: list[float] | None = None) -> Task:
        """A random legal task of the training split; lengths uniform unless weighted."""
        while True:
            length = self.random.choices(LENGTHS, weights=lengths)[0]
            task = Task(self.random.choice(list(FAMILIES)), self.argument(length))
            if split(task) == "train":
                return task

    def teacher_answer(self, task: Task) -> str:
        lazy = self.random.random() < self.settings.careless[len(task.argument) - 1]
        return task.argument if lazy else task.right_answer

    def solver(self) -> tuple[list, str]:
        task = self.task()
        return self.prompts.solver_messages(task.query), self.teacher_answer(task)

    def challenger(self) -> tuple[list, str]:
        return self.prompts.challenger_messages(), self.task(self.length_weights).query

    def judge(self) -> tuple[list, str]:
        """The answer is right, lazy, of another task, corrupted or of a wrong form."""
        task = self.task()
        query = self.near_miss(task) if self.random.random() < 0.6 else task.query
        draw, right = self.random.random(), task.right_answer
        if draw < 0.45:
            answer = self.teacher_answer(task)
        elif draw < 0.6:
            answer = self.task().right_answer
        elif draw < 0.85:
            answer = self.corrupt(right, "abcABC0123456789")
        else:
            answer = self.corrupt(self.corrupt(right, "abcABCdoprst 12345678"), "abcxyz")
        return self.prompts.judge_messages(query, answer), str(form_rubric(query, answer))

    def corrupt(self, text: str, characters: str) -> str:
        """One character replaced, inserted, removed or doubled."""
        at = self.random.randrange(len(text) + 1)
        new, before = self.random.choice(characters), max(0, at - 1)
        replaced, inserted = text[:at] + new + text[at + 1 :], text[:at] + new + text[at:]
        removed, doubled = text[:before] + text[at:], text[:at] + text[before:]
        return self.random.choice((replaced, inserted, removed, doubled))

    def near_miss(self, task: Task) -> str:
        """A query that a careless reader takes for a legal one."""
        family, argument = task
        draw, letters = self.random, string.ascii_lowercase
        other, more = draw.choice(list(FAMILIES)), self.argument(draw.randint(1, 9))
        misses = [
            lambda: f"{self.corrupt(family, letters)} {argument}",
            lambda: f"{self.corrupt(self.corrupt(family, letters), letters)} {argument}",
            lambda: f"{family}{argument}",
            lambda: f"{family}{other} {argument}",
            lambda: f"{family[: draw.randint(1, len(family))]}{other} {argument}",
            lambda: f"{family} {other} {argument}",
            lambda: f"{family} {argument} {more}",
            lambda: f"{family}  {argument}",
            lambda: (
                f"{family} {argument}{self.argument(MAX_LENGTH)[: draw.randint(1, 6)]}"
                if len(argument) == MAX_LENGTH
                else f"{family} {(argument + more)[:MAX_LENGTH]}{draw.choice(letters[3:])}"
            ),
            lambda: f"{family} {self.argument(MAX_LENGTH + draw.randint(1, 4))}",
            lambda: f"{family} {self.corrupt(argument, letters + 'ABC123 ')}",
            lambda: f"{family} {argument.upper()}",
            lambda: f"{family} ",
            lambda: family,
            lambda: argument,
            lambda: f"{argument} {family}",
            lambda: "".join(draw.choices(letters + "  ", k=draw.randint(1, 16))),
            lambda: self.corrupt(task.query, letters + " "),
            lambda: self.corrupt(self.corrupt(task.query, letters + " "), letters + " "),
        ]
        return draw.choice(misses)()


def pretrain(
    settings: PretrainSettings, folder: Path
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Make a base model; the learning rate falls linearly to zero. ``folder``: keeps what is
    unfinished."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import LlamaConfig, LlamaForCausalLM

    from lsp.model.chat import ChatFormat
    from lsp.model.device import choose_device

    device = choose_device(settings.device)
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    size, highest = SIZES[settings.size], settings.highest_lr
    shape = {
        "hidden_size": size.hidden,
        "intermediate_size": 3 * size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
    }
    config = LlamaConfig(vocab_size=len(tokenizer), **shape, **ARCHITECTURE, **ends)
    model, chat, corpus = LlamaForCausalLM(config).float(), ChatFormat(tokenizer), Corpus(settings)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    kept, learned, before = folder / KEPT, settings.record(), 0
    if kept.is_file():
        state = torch.load(kept, weights_only=True, map_location=device)
        if state["settings"] != learned:
            raise RunError(f"{kept} is of another schooling: go on with its settings, or remove it")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        corpus.random.setstate(state["corpus"])
        before = state["step"]
        say(f"goes on after step {before}")
    first_done, last_line = 0.0, -math.inf
    for step in range(before, settings.steps):
        ids, weights = (part.to(device) for part in corpus.batch(chat))
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        targets, weights = ids[:, 1:].flatten(), weights[:, 1:].flatten()
        losses = cross_entropy(logits, targets, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        rise, fall = (step + 1) / settings.warmup_steps, 1 - step / settings.steps
        for group in optimizer.param_groups:
            group["lr"] = highest * min(1.0, rise) * fall
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        now, since = time.monotonic(), step - before
        first_done = first_done if since else now
        if step + 1 == settings.steps or now - last_line >= LINE_SECONDS:
            last_line = now
            words = step_words(step + 1, settings.steps, since, now - first_done)
            say("  ".join([*words, f"loss {loss.item():.3f}"]))
        if (step + 1) % KEPT_EVERY == 0:
            state = {"settings": learned, "step": step + 1, "corpus": corpus.random.getstate()}
            state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(kept) as path:
                torch.save(state, path)
    return model.cpu().eval(), tokenizer


def main(arguments: Sequence[str]) -> None:
    try:
        settings = read_settings(PretrainSettings, arguments)
    except RunError as error:
        sys.exit(f"error: {error}")
    if len(settings.careless) != MAX_LENGTH:
        sys.exit(f"error: careless needs {MAX_LENGTH} values, one for each length")
    out = Path(settings.out or BASE_FOLDER)
    try:
        with Heartbeat("loading"):
            model, tokenizer = pretrain(settings, out)
    except RunError as error:
        sys.exit(f"error: {error}")
    except ValueError as error:  # there is no GPU; the setting of a run has another name
        sys.exit(f"error: {str(error).removeprefix('runtime.')}")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_json(out / "pretrain.json", settings.record())
    (out / KEPT).unlink(missing_ok=True)
    print(f"saved {out}")


if __name__ == "__main__":
    start_module("lsp.pocket.pretrain", __doc__)
