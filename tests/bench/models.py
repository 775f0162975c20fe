"""What benchmarks measure on: random Llamas of several sizes, prompts of their words, a reward; and
prompts in plain language for any other model's folder."""

from pathlib import Path

SIZES = {
    "tiny": dict(vocab_size=512, hidden_size=192, intermediate_size=448, num_hidden_layers=4,
                 num_attention_heads=4, prompt=50, limit=64, steps=4, rows=32,
                 checkpointing="ours"),
    "small": dict(vocab_size=32_000, hidden_size=512, intermediate_size=1204, num_hidden_layers=8,
                  num_attention_heads=8, prompt=60, limit=128, steps=2, rows=8,
                  checkpointing="none"),
    # Of tests.bench.memory.
    "grouped": dict(vocab_size=16_000, hidden_size=640, intermediate_size=1728, num_hidden_layers=5,
                    num_attention_heads=10, num_key_value_heads=2, prompt=90, limit=96, steps=1,
                    rows=8, checkpointing="none"),
    # Any folder's: its config has the shape.
    "model": dict(prompt=50, limit=64, steps=1, rows=8, checkpointing="none"),
}  # fmt: skip
STORIES = (
    "a lighthouse keeper",
    "two rival bakers",
    "a lost violin",
    "the last train of the night",
)
FACTS = ("Which colour is the sky?", "What is 7 + 5?", "Name a fruit.", "Where is Paris?")
WORDS = ["<pad>", "<eos>", "<unk>", "ask", "rate", *map(str, range(8))]


def build_model(folder: Path, size: str, ragged: bool) -> None:
    """A random Llama with a tokenizer of one word an id; prompts are words, so both sides see the
    same ids."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    ours = ("prompt", "limit", "steps", "rows", "checkpointing")
    shape = {name: value for name, value in SIZES[size].items() if name not in ours}
    torch.manual_seed(0)
    gpu = size == "gpu" and torch.cuda.is_available()  # billions of random numbers
    with torch.device("cuda" if gpu else "cpu"):
        model = LlamaForCausalLM(
            LlamaConfig(**shape, tie_word_embeddings=True, max_position_embeddings=1024,
                        bos_token_id=None, eos_token_id=1, pad_token_id=None)
        )  # fmt: skip
    if gpu:
        model.to(torch.bfloat16)
    vocabulary = shape["vocab_size"]
    ends = [1]
    if ragged:  # mean of min(geometric, limit) = limit / 3 where the chance is 2.75 / limit
        ends = list(range(vocabulary - round(vocabulary * 2.75 / SIZES[size]["limit"]), vocabulary))
    model.generation_config.eos_token_id = [1, *ends] if ragged else [1]
    model.save_pretrained(folder)
    words = [*WORDS, *(f"w{i}" for i in range(len(WORDS), vocabulary))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] + ' ' + eos_token + ' ' }}{% endfor %}"
    )
    tokenizer.save_pretrained(folder)


def prompts_of(size: str, count: int, ragged: bool = False) -> list[str]:
    """Of a folder's model: stories, which go on to the limit; ragged: half of them short answers.
    Of the others: random words."""
    import random

    if size == "model":
        stories = [f"Write a long story about {what}." for what in STORIES]
        texts = [*FACTS[:2], *stories[:2]] if ragged else stories
        return [texts[i % len(texts)] for i in range(count)]
    source = random.Random(0)
    last = SIZES[size]["vocab_size"] * 9 // 10  # none of the ids that may end an answer
    return [
        " ".join(f"w{source.randrange(len(WORDS), last)}" for _ in range(SIZES[size]["prompt"]))
        for _ in range(count)
    ]


def reward_of(text: str) -> float:
    """Share of a completion's characters with an even code."""
    return sum(ord(character) % 2 == 0 for character in text) / max(1, len(text))
