"""Every command of ``lsp``: its name goes in, whose code it is and how it is used come out.

Data alone, so that ``lsp --help`` answers at once. Modules are named by text and imported when they
are called: those of ``eval`` and ``sweeps`` stand above ``lsp``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Command:
    """``module``: whose ``main(arguments)`` it is; ``settings``: its class of settings, as
    ``module:name``; ``of_a_run``: it takes the settings of a run too. ``needs``: what must stand
    behind the command, else nothing begins; empty: nothing must. ``flags``: words that begin with a
    dash and are its own; ``spelled``: those that stand for a setting."""

    module: str
    purpose: str
    usage: str
    examples: Sequence[tuple[str, str]]
    settings: str = ""
    of_a_run: bool = False
    needs: str = ""
    flags: Sequence[str] = ()
    spelled: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    docs: str = ""


RUN = "outputs/<run id>"
HYDRA_FLAGS = ("-m", "--multirun", "--cfg", "-c", "--package", "-p", "--resolve", "--info", "-i",
               "--hydra-help")  # fmt: skip
COMMANDS: Mapping[str, Command] = {
    "train": Command(
        module="lsp.train_command",
        purpose="train by self-play: settings go in, a run's folder comes out",
        usage="KEY=VALUE …",
        examples=(
            ("method=lsp", "the default run, half a minute"),
            ("method=lsp_zero num_steps=50 seed=1", "another method, shorter"),
            ("method=lsp init=grpo", "from the newest finished GRPO run"),
            ("experiment=laptop/lsp", "a real model, SmolLM2-135M"),
            ("reward=callable reward.path=mine.reward", "a function of yours as the reward"),
            ("resume=RUN", "go on after a kill"),
            ("run_dir=outputs/mine resume=auto", "start or go on, for a queue"),
            ("-m method=lsp,grpo seed=0,1,2", "a run of each combination"),
        ),
        of_a_run=True,
        needs="at least one setting: method=lsp is the default run",
        flags=HYDRA_FLAGS,
        note="Several processes: torchrun --nproc_per_node 8 -m lsp train KEY=VALUE …",
        docs="docs/settings.md",
    ),
    "plan": Command(
        module="lsp.dry_run",
        purpose="what a run would take, in memory and hours, and whether it can start (a dry run)",
        usage="KEY=VALUE … | table",
        examples=(
            ("method=lsp", "of the default run"),
            ("experiment=paper_v1/lsp hardware=gpu_80gb", "of the paper's model"),
            ("resume=RUN", "what is left of a run"),
            ("table", "the table of docs/scaling.md"),
        ),
        of_a_run=True,
        needs="at least one setting: method=lsp is the default run",
        docs="docs/scaling.md",
    ),
    "preflight": Command(
        module="lsp.preflight",
        purpose="is there a game? plays sixteen queries of a run that is to begin",
        usage="KEY=VALUE …",
        examples=(
            ("method=lsp", "the default world"),
            ("experiment=laptop/lsp", "a real model"),
            ("experiment=small/lsp reward=judge reward.model=<name>", "graded by a chat server"),
        ),
        of_a_run=True,
        needs="the settings of a run: method=lsp is the default",
        note="Exit code 1: the game that the settings name is not played.",
        docs="docs/prompts.md",
    ),
    "serve": Command(
        module="lsp.serve",
        purpose="the vLLM server that a run's rollouts need: its command, or the server itself",
        usage="KEY=VALUE … [-- words of vLLM]",
        examples=(
            (
                "experiment=small/lsp rollout.engine=vllm rollout.url=http://127.0.0.1:8000",
                "print",
            ),
            ("start=true python=~/vllm/bin/python … -- --tensor-parallel-size 2", "become it"),
        ),
        settings="lsp.serve:ServeSettings",
        of_a_run=True,
        needs="the settings of a run with rollout.engine=vllm rollout.url=<address>",
        docs="docs/engines.md",
    ),
    "runs": Command(
        module="lsp.runs",
        purpose="the runs that are here: status, reason, method, numbers; the newest first",
        usage="[ID …] [KEY=VALUE …]",
        examples=(
            ("", "the twenty newest"),
            ("lsp-s0", "those whose id begins so"),
            ("count=100 runs_root=outputs/compare/base-0", "more, of another folder"),
        ),
        settings="lsp.runs:RunsSettings",
        note=(
            "Wherever a run is asked for, its folder, its id or the beginning of an id will do;"
            " runs_root is looked for here and in the folders above."
        ),
        docs="docs/commands.md",
    ),
    "report": Command(
        module="lsp.report.__main__",
        purpose="report.html of a run; comparison.html of several: which is better, is it shown",
        usage="RUN [RUN …] [KEY=VALUE …]",
        examples=(
            ("RUN", "also of a run that is still going"),
            ("RUN RUN out=both.html", "two, side by side"),
            ("RUN 'trust=[world._target_=mine.World]'", "with a world of yours"),
        ),
        settings="lsp.report.__main__:ReportSettings",
        needs="a run: its folder or id",
        docs="docs/report.md",
    ),
    "show": Command(
        module="lsp.show",
        purpose="a step of a run in the terminal, or each as it comes: queries, answers, rewards",
        usage="RUN [KEY=VALUE …]",
        examples=(
            ("RUN", "the last step"),
            ("RUN step=120 answers=4", "another, with four answers of each query"),
            ("RUN filter=reverse", "queries and answers that hold a word"),
            ("RUN --follow", "each step that a run plays, until it ends; follow=true is the same"),
        ),
        settings="lsp.show:ShowSettings",
        needs="a run: its folder or id",
        spelled={"--follow": "follow=true"},
        docs="docs/report.md",
    ),
    "view": Command(
        module="lsp.view",
        purpose="a run's report as a page of this machine, which follows the run while it goes",
        usage="RUN [KEY=VALUE …]",
        examples=(
            ("RUN", "prints the page's address; Ctrl-C ends it, and the run goes on"),
            ("RUN open=true", "opens it in the browser too"),
            ("RUN port=8123", "for `ssh -L 8123:127.0.0.1:8123 host`"),
        ),
        settings="lsp.view:ViewSettings",
        needs="a run: its folder or id",
        docs="docs/report.md",
    ),
    "play": Command(
        module="lsp.play",
        purpose="talk to a trained model, its base beside it",
        usage="RUN [KEY=VALUE …]",
        examples=(
            ("RUN", "type queries; /challenge lets the model ask"),
            ("RUN checkpoint=step-000050 greedy=true", "an older one, its likeliest answers"),
            ("RUN 'trust=[reward.path=mine.reward]'", "a run with a reward of yours"),
        ),
        settings="lsp.play:PlaySettings",
        needs="a run: its folder or id",
        docs="docs/report.md",
    ),
    "sync": Command(
        module="lsp.sync",
        purpose="send offline runs to W&B, and check that all of it arrived",
        usage="RUN [RUN …] [KEY=VALUE …]",
        examples=(("RUN", "one run"), ("outputs/lsp-*", "several")),
        settings="lsp.sync:SyncSettings",
        needs="a run: its folder or id",
        docs="docs/tracking.md",
    ),
    "workspace": Command(
        module="lsp.workspace",
        purpose="a saved view of a run's W&B project: what is measured, KL, collapse, queries",
        usage="RUN [KEY=VALUE …]",
        examples=(("RUN", "makes the view, or puts its panels in order again"),),
        settings="lsp.workspace:WorkspaceSettings",
        needs="a run: its folder or id",
        docs="docs/tracking.md",
    ),
    "eval": Command(
        module="eval.__main__",
        purpose="win rates of a run's model against its base, by a judge or the exact verifier",
        usage="RUN [KEY=VALUE …]",
        examples=(
            ("RUN benchmark=pocket", "offline, no key"),
            ("RUN dry_run=true", "what GPT-4o would cost"),
            ("RUN judge.max_usd=5", "AlpacaEval, no more than that"),
            ("RUN judge=compatible judge.base_url=http://host:8000/v1 judge.model=<name>", ""),
        ),
        settings="eval.settings:EvaluateConfig",
        needs="whose answers: a run, a model or a file of answers",
        docs="docs/evaluation.md",
    ),
    "figures": Command(
        module="eval.figures",
        purpose="the paper's figures, of evaluated runs",
        usage="RUN [RUN …] [KEY=VALUE …]",
        examples=(
            ("outputs/figure-2/* figure=2 benchmark=pocket", "Figure 2 of pocket runs"),
            ("outputs/figure-3/* figure=3 paper=v3", "beside the numbers of version 3"),
        ),
        settings="eval.figures:FigureSettings",
        needs="evaluated runs: their folders or ids",
        docs="docs/reproduce.md",
    ),
    "crossplay": Command(
        module="eval.crossplay",
        purpose="each Challenger's queries to each Solver: checkpoints against checkpoints",
        usage="RUN [RUN …] [KEY=VALUE …]",
        examples=(
            ("RUN queries=64 samples=4", "a run's checkpoints"),
            ("RUN RUN last_only=true folder=outputs/cross", "two runs' newest"),
        ),
        settings="eval.crossplay:CrossPlaySettings",
        needs="runs: their folders or ids",
        docs="docs/evaluation.md",
    ),
    "sweep": Command(
        module="sweeps.local",
        purpose="a sweep in W&B's format, run here without a server; a page and a table come out",
        usage="FILE [KEY=VALUE …]",
        examples=(
            ("sweeps/beta.yaml workers=2", "two runs at a time"),
            ("mine.yaml num_steps=50 folder=outputs/quick", "num_steps goes to every run"),
        ),
        settings="sweeps.local:LocalSettings",
        of_a_run=True,
        needs="a sweep file: sweeps/beta.yaml",
        docs="docs/tracking.md",
    ),
    "compare": Command(
        module="sweeps.compare",
        purpose="methods and controls over seeds and bases: claims with intervals",
        usage="KEY=VALUE …",
        examples=(
            ("contrasts=sweeps/contrasts.yaml", "README's table, hours"),
            ("contrasts=mine.yaml seeds=1 folder=outputs/mine", "variants and claims of yours"),
        ),
        settings="sweeps.compare:CompareSettings",
        needs="what is compared: contrasts=sweeps/contrasts.yaml is README's table, hours of runs",
        docs="docs/results.md",
    ),
    "phase": Command(
        module="sweeps.phase",
        purpose="where the Challenger leaves the language: predicted from the base, then played",
        usage="KEY=VALUE …",
        examples=(
            ("predict=true", "the prediction alone, seconds"),
            ("betas=[.1,.3] weights=[0.0] alphas=[1.0]", "two cells, played"),
            ("workers=2", "all 60 cells, half an hour"),
        ),
        settings="sweeps.phase:PhaseSettings",
        needs="a setting: predict=true predicts, workers=2 plays 60 cells too, half an hour",
        docs="docs/game.md",
    ),
    "rank": Command(
        module="sweeps.rank",
        purpose="where a method of yours stands among the rules of others",
        usage="[METHOD.yaml …] [KEY=VALUE …]",
        examples=(
            ("my_method.yaml seeds=1", "a row for a method of yours"),
            ("my_method.yaml known=docs/data/rank.csv", "the others' rows are taken from there"),
        ),
        settings="sweeps.rank:RankSettings",
        needs="a method's file, or a setting (seeds=2 runs the rules of others, hours)",
        docs="docs/results.md",
    ),
    "doctor": Command(
        module="lsp.doctor",
        purpose="what this machine can do: packages, extras, GPU, memory, keys, network",
        usage="",
        examples=(("", "ten lines; W&B and the Hub are asked once, 5 s at most"),),
        note="Exit code 1: the installation is broken. No key is shown, its name alone.",
        docs="docs/commands.md",
    ),
    "completion": Command(
        module="lsp.cli.completion",
        purpose="lets a shell complete commands and settings",
        usage="bash | zsh | fish",
        examples=(
            ("bash > ~/.local/share/bash-completion/completions/lsp", "bash"),
            ("zsh > ~/.zfunc/_lsp", "zsh, where ~/.zfunc is in fpath before compinit"),
            ("fish > ~/.config/fish/completions/lsp.fish", "fish"),
        ),
        needs="which shell: bash, zsh or fish",
        docs="docs/commands.md",
    ),
}

GROUPS = {
    "before": ("plan", "preflight", "serve", "doctor"),
    "train": ("train", "sweep"),
    "look": ("runs", "report", "show", "view", "play", "sync", "workspace"),
    "judge": ("eval", "figures", "crossplay"),
    "study": ("compare", "phase", "rank"),
    "shell": ("completion",),
}
"""In which order ``lsp --help`` lists them."""
EXIT_CODES = {
    0: "done",
    1: "refused, failed, or asked to stop by a signal; the message has the way out",
    2: "the command line: no such command, a flag, or what must stand there does not",
    130: "Ctrl-C",
}
