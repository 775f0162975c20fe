"""Command lines that nobody means, drawn from a seed: valid keys with odd values, and broken words.

``odd_commands(seed, count, folder)`` -> lists of overrides, the same for the same seed. Each is to
end in a plan or in one ConfigError or RunError under ``dry_run=true``, which is their last word.
"""

import os
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path

from lsp.settings.compose import CONF, compose
from lsp.settings.schema import flat

ODD_TEXTS = (
    *("", " ", "''", "'", '"', "null", "None", "~", "true", "False", "nan", "-inf", "inf"),
    *(
        "0",
        "-0",
        "-1",
        "1",
        "1e-300",
        "1e300",
        "1e309",
        "9" * 400,
        "0x10",
        "1_000",
        "01",
        "1.",
        ".5",
    ),
    *("[]", "[[]]", "[1,2", "[1,[2]]", "{}", "{a:1}", "{a:{b:[1]}}", "(1)", "a,b", "1,2,3", "a b"),
    *(
        "é",
        "中文",
        "\u202e abc",
        "\x00",
        "\x1b[31m",
        "\udcff",
        "\ud800",
        "a\nb",
        "\\n",
        "\t",
        "🎲" * 90,
    ),
    *("$x", "${seed}", "${nope}", "${oc.env:HOME}", "${oc.env:NO_SUCH_THING}", "${hydra:run.dir}"),
    *(
        "${",
        "${${seed}}",
        "${oc.decode:'{'}",
        "${oc.create:[1]}",
        "${now:%Y}",
        "'${seed}'",
        "\\${a}",
    ),
    *("=", "==", "a=b", "key=value=more", "%", "@", "#", "..", ".", "../..", "~nobody/x", "~/x"),
    *("/", "/dev/null", "/dev/zero", "/dev/null/x", "/proc/self/mem", "/proc/x", "/sys/x", "/nope"),
    *(
        "file:///etc/passwd",
        "http://127.0.0.1:1/x",
        "hub:a/b",
        "a/b/c",
        "os.system",
        "lsp",
        "lsp.x.Y",
    ),
    *("glob(*)", "choice(1,2)", "range(1,3)", "interval(0,1)", "sort(3,1)", "int(3.5)", "str(1)"),
)
PARTS = ("data", "reward", "self_reward", "eval", "tracker", "rollout.engine", "world")
TARGETS = (
    *("os.system", "builtins.eval", "lsp", "lsp.nope.X", "lsp.files.sha256", "lsp..x", ".x", ""),
    *("lsp.pocket.verifier.PocketVerifier", "lsp.settings.config.Config", "lsp.contracts.Reward"),
    *("eval.settings.EvaluateConfig", "lsp.tracking.trackers.LocalOnly", "null", "[a]", "{}", "5"),
)
BROKEN = (
    *(
        "",
        "=",
        "seed",
        "=1",
        "seed=",
        "~seed",
        "~optim",
        "+seed=1",
        "++seed=1",
        "+new=1",
        "++a.b=1",
    ),
    *("+optim.new=1", "sed=1", "optim=1", "optim.lr.x=1", "method@x=lsp", "method=[lsp,grpo]"),
    *("method=../x", "+method=lsp", "~method", "method@optim=lsp", "hydra.run.dir=x", "hydra=1"),
    *("hydra/launcher=nope", "experiment=laptop/lsp", "experiment=nope", "--help", "-m", "seed =1"),
    *("a:b=1", "a/b=1", "reward/x=1", "optim.lr=1=2", "seed=0,1", "seed='0", "rollout.engine=nope"),
    *(
        "init=grpo",
        "init=checkpoint",
        "world=paper",
        "prompts=few_shot",
        "reward=callable",
        "data=tasks",
    ),
    *("reward=http", "reward=judge", "reward=judge_pairwise"),
    *("reward=weighted", "reward=skywork", "self_reward=likelihood", "method=grpo"),
)


def odd_number(source: random.Random) -> str:
    """Of any size and sign."""
    size = (
        10.0 ** source.uniform(-320, 308) if source.random() < 0.5 else 10.0 ** source.uniform(0, 9)
    )
    text = str(int(size)) if source.random() < 0.5 and size < 1e30 else repr(size)
    return ("-" if source.random() < 0.3 else "") + text


def odd_text(source: random.Random) -> str:
    """Any characters at all, some of them of Hydra's and of YAML's grammar."""
    letters = string.printable + "é中\u2028\ufeff\x00\ud83d" + "[]{}(),:='\"\\$~" * 3
    return "".join(source.choices(letters, k=source.choice((1, 3, 10, 300, 5000))))


def quoted(source: random.Random) -> str:
    """A text that Hydra reads as one."""
    text = odd_text(source) if source.random() < 0.5 else source.choice(ODD_TEXTS)
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def odd_list(source: random.Random) -> str:
    makers = (odd_number, quoted, lambda s: s.choice(ODD_TEXTS))
    return "[" + ",".join(source.choice(makers)(source) for _ in range(source.randrange(5))) + "]"


def near(source: random.Random, value: object, places: list[str]) -> str:
    """A value of the same kind as a setting has, which the setting may well take."""
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int):
        return str(max(0, round(value * 10 ** source.uniform(-2, 2)) + source.randrange(3)))
    if isinstance(value, float):
        return repr(value * 10 ** source.uniform(-6, 6))
    if isinstance(value, list):
        return odd_list(source)
    return source.choice((quoted(source), "null", *source.sample(places, 2)))


def odd_places(folder: Path) -> list[str]:
    """Paths of things that are no run, no model and no data, made in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "fifo.txt").exists():
        os.mkfifo(folder / "fifo.txt")
        (folder / "link").symlink_to(folder / "link")
        (folder / "gone").symlink_to(folder / "nowhere")
        (folder / "empty").mkdir()
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text('{"model_type": [1]}')
        (folder / "run").mkdir()
        (folder / "run" / "run.json").write_text("[")
        for name, text in {"a.jsonl": '{"text": 1}\n[', "b.txt": "", "c.json": "[" * 5000}.items():
            (folder / name).write_text(text)
        (folder / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    return [str(path) for path in sorted(folder.iterdir())]


def odd_commands(seed: int, count: int, folder: Path) -> Iterator[list[str]]:
    """``count`` lists of overrides. ``folder``: where odd files lie, which it makes."""
    source, places = random.Random(f"odd commands {seed}"), odd_places(folder)
    settings = flat(compose(["world=paper"])) | flat(compose([]))
    keys = sorted(settings.keys() - {"dry_run"})
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    values: tuple[Callable[[random.Random], str], ...] = (
        *(odd_number, odd_text, quoted, odd_list),
        *(lambda s: s.choice(ODD_TEXTS), lambda s: s.choice(ODD_TEXTS), lambda s: s.choice(places)),
    )

    def word() -> str:
        kind = source.random()
        if kind < 0.15:
            return source.choice(BROKEN)
        if kind < 0.22:
            return f"{source.choice(PARTS)}._target_={source.choice(TARGETS)}"
        if kind < 0.27:
            return f"{source.choice(groups)}={source.choice(values)(source)}"
        key = source.choice(keys)
        if kind < 0.7 and not key.endswith("_target_"):
            return f"{key}={near(source, settings[key], places)}"
        sign = source.choice(("", "", "", "", "+", "++"))
        return f"{sign}{key}={source.choice(values)(source)}"

    for _ in range(count):
        words = [word() for _ in range(source.choice((1, 1, 1, 2, 3, 6)))]
        yield [*words, f"runs_root={folder / 'empty'}", "dry_run=true"]
