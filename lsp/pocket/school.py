"""Schools the pocket world's base model: a real Llama that can play every role, not too well.

    python -m lsp.pocket.school seed=0            # writes lsp/pocket/base, about two minutes
    python -m lsp.pocket.school seed=1 out=outputs/pocket-base-1

The corpus has three parts, one for each role of the game:

* Solver: a query and the answer of a *careless teacher*: right, or, with a probability that
  grows with the length, a lazy one (the argument as it stands). So the right answer is within
  reach for long arguments but a lazy one is more likely: what reinforcement learning can elicit.
* Challenger: legal queries, short ones far more often than long ones (``decay``).
* Judge: the form rubric's score of (query, answer) pairs, most of them near misses (misspelt
  and fused families, wrong arity, stray letters, too long), for a judge that has not seen
  those is exploited by a learning Challenger.

Queries of the dev and test splits are never shown.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lsp.pocket.language import ALPHABET, FAMILIES, MAX_LENGTH, Task, form_rubric, split
from lsp.prompts import ChatFormat, Prompts

CARELESS = (0.05, 0.05, 0.1, 0.3, 0.6, 0.8, 0.85, 0.85)
"""The teacher's chance of a lazy answer, by length 1 to 8."""
BASE_FOLDER = Path(__file__).parent / "base"
PROMPTS_FILE = Path(__file__).parents[2] / "conf" / "prompts" / "pocket.yaml"

CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and Llama-3-like turn marks; 86 tokens."""
    special = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|unknown|>"]
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \n<|>{}/.,:;?!'\"-_"
    vocabulary = {token: i for i, token in enumerate([*special, *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A random Llama of about 110,000 parameters, hidden weights with standard deviation 0.08."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        initializer_range=0.08,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).to(torch.float32)


class Corpus:
    """Draws (messages, completion) pairs for the three roles; see the module's docstring."""

    def __init__(self, seed: int, prompts: Prompts, decay: float, careless: Sequence[float]):
        self.random = random.Random(f"pocket school {seed}")
        self.prompts = prompts
        self.families = list(FAMILIES)
        self.length_weights = [decay**length for length in range(MAX_LENGTH)]
        self.careless = careless

    def argument(self, length: int) -> str:
        return "".join(self.random.choices(ALPHABET, k=length))

    def task(self, lengths: list[float] | None = None) -> Task:
        """A random legal task of the training split; lengths uniform unless weighted."""
        while True:
            length = self.random.choices(range(1, MAX_LENGTH + 1), weights=lengths)[0]
            task = Task(self.random.choice(self.families), self.argument(length))
            if split(task) == "train":
                return task

    def teacher_answer(self, task: Task) -> str:
        lazy = self.random.random() < self.careless[len(task.argument) - 1]
        return task.argument if lazy else task.right_answer

    def solver(self) -> tuple[list, str]:
        task = self.task()
        return self.prompts.solver_messages(task.query), self.teacher_answer(task)

    def challenger(self) -> tuple[list, str]:
        return self.prompts.challenger_messages(), self.task(self.length_weights).query

    def judge(self) -> tuple[list, str]:
        task = self.task()
        query = task.query
        if self.random.random() < 0.6:
            query = self.near_miss(task)
        answer = self.judged_answer(task)
        return self.prompts.judge_messages(query, answer), str(form_rubric(query, answer))

    def judged_answer(self, task: Task) -> str:
        """A right, lazy, wrong-form, corrupted or unrelated answer."""
        draw = self.random.random()
        if draw < 0.45:
            return self.teacher_answer(task)
        if draw < 0.6:
            return self.task().right_answer
        if draw < 0.85:
            return self.corrupt(task.right_answer, "abcABC0123456789")
        return self.corrupt(self.corrupt(task.right_answer, "abcABCdoprst 12345678"), "abcxyz")

    def corrupt(self, text: str, characters: str) -> str:
        """One character replaced, inserted, removed or doubled."""
        at = self.random.randrange(len(text) + 1)
        new = self.random.choice(characters)
        kind = self.random.randrange(4)
        if kind == 0:
            return text[:at] + new + text[at + 1 :]
        if kind == 1:
            return text[:at] + new + text[at:]
        if kind == 2:
            return text[: max(0, at - 1)] + text[at:]
        return text[:at] + text[max(0, at - 1) :]

    def near_miss(self, task: Task) -> str:
        """A query that a careless reader takes for a legal one."""
        family, argument = task
        other = self.random.choice(self.families)
        more = self.argument(self.random.randint(1, 9))
        letters = "abcdefghijklmnopqrstuvwxyz"
        misses = [
            lambda: f"{self.corrupt(family, letters)} {argument}",
            lambda: f"{self.corrupt(self.corrupt(family, letters), letters)} {argument}",
            lambda: f"{family}{argument}",
            lambda: f"{family}{other} {argument}",
            lambda: f"{family[: self.random.randint(1, len(family))]}{other} {argument}",
            lambda: f"{family} {other} {argument}",
            lambda: f"{family} {argument} {more}",
            lambda: f"{family}  {argument}",
            lambda: f"{family} {argument}{self.argument(MAX_LENGTH)[: self.random.randint(1, 6)]}"
            if len(argument) == MAX_LENGTH
            else f"{family} {(argument + more)[:MAX_LENGTH]}{self.random.choice(letters[3:])}",
            lambda: f"{family} {self.argument(MAX_LENGTH + self.random.randint(1, 4))}",
            lambda: f"{family} {self.corrupt(argument, letters + 'ABC123 ')}",
            lambda: f"{family} {argument.upper()}",
            lambda: f"{family} ",
            lambda: family,
            lambda: argument,
            lambda: f"{argument} {family}",
            lambda: "".join(self.random.choices(letters + "  ", k=self.random.randint(1, 16))),
            lambda: self.corrupt(task.query, letters + " "),
            lambda: self.corrupt(self.corrupt(task.query, letters + " "), letters + " "),
        ]
        return self.random.choice(misses)()


def school(
    seed: int = 0,
    steps: int = 5000,
    batch: int = 48,
    lr: float = 6e-3,
    decay: float = 0.7,
    careless: Sequence[float] = CARELESS,
    judge_share: float = 0.35,
    challenger_share: float = 0.12,
    judge_weight: float = 4.0,
    log=print,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Make a base model. ``decay`` is the ratio of the Challenger's share of queries of length
    L + 1 to those of length L; ``careless`` is the teacher's chance of a lazy answer at length
    zero, and what each letter adds. The learning rate falls linearly to zero.
    """
    prompts = Prompts(**OmegaConf.to_container(OmegaConf.load(PROMPTS_FILE)))
    tokenizer = build_tokenizer()
    chat = ChatFormat(tokenizer)
    model = build_model(tokenizer, seed)
    corpus = Corpus(seed, prompts, decay, careless)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = 200
    started = time.perf_counter()
    for step in range(steps):
        shares = [judge_share, challenger_share, 1 - judge_share - challenger_share]
        makers = corpus.random.choices(
            [corpus.judge, corpus.challenger, corpus.solver], weights=shares, k=batch
        )
        pairs = [make() for make in makers]
        starts = chat.encode([messages for messages, _ in pairs])
        ends = chat.encode_text([completion for _, completion in pairs])
        rows = [start + end + [tokenizer.eos_token_id] for start, end in zip(starts, ends)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        weights = torch.zeros(batch, width)
        for i, (make, start, row) in enumerate(zip(makers, starts, rows)):
            weights[i, len(start) : len(row)] = 1.0
            if make == corpus.judge:
                weights[i, len(start)] = judge_weight
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        weights = weights[:, 1:].flatten()
        loss = (losses * weights).sum() / weights.sum()
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / warmup) * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 500 == 499:
            log(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {time.perf_counter() - started:.0f} s")
    return model.eval(), tokenizer
