"""Evaluation on the way and at the end: an evaluator and models go in, metrics by path come out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lsp.contracts import BuildContext, Evaluator, Example, HeldOut, build_part
from lsp.learner import Learner
from lsp.model.out_of_memory import memory_guard
from lsp.model.processes import ALONE, Command
from lsp.players import Players, load_base
from lsp.run.spec import RunSpec
from lsp.tools.heartbeat import at

WORDS = {"base": "the base", "init": "the init", "final": "the trained model"}


class Evaluation:
    """A run's evaluator with the models that it measures. The first process evaluates alone."""

    def __init__(self, spec: RunSpec, players: Players, learner: Learner):
        self.settings, self.num_steps = spec.config.eval, spec.config.num_steps
        self.players, self.learner = players, learner
        self.evaluator: Evaluator | None = None
        if self.settings is not None:
            at("the base, for the evaluation")
            self.base = load_base(spec.config, spec.init, players.reference)
            context = BuildContext(
                spec.config, players.device, chat=players.chat, players=players, base=self.base
            )
            self.evaluator = build_part(self.settings, context)

    def is_due(self, step: int) -> bool:
        if self.evaluator is None:
            return False
        every = self.settings.every
        return step == self.num_steps or bool(every and step % every == 0)

    def on_the_way(self, step: int) -> dict[str, float]:
        """``eval/<name>/…`` of the policy after ``step`` on the dev split."""
        with self._whole_policy(step):
            metrics = self.evaluator.metrics(self.players.policy, "dev")
        return {f"eval/{self.settings.name}/{key}": value for key, value in metrics.items()}

    def at_the_end(self, enter: Callable[[str], None]) -> dict[str, float]:
        """``base/…`` and ``final/…`` on the test split; ``init/…`` where the run started elsewhere
        than at the base. Nothing without an evaluator. ``enter`` is told of each that begins."""
        if self.evaluator is None:
            return {}
        models = {"base": self.base, "init": self.players.reference, "final": self.players.policy}
        if self.base is self.players.reference:
            del models["init"]
        values = {}
        with self._whole_policy(self.num_steps):
            for number, (name, model) in enumerate(models.items(), 1):
                enter(f"evaluating on the test split, {number} of {len(models)}: {WORDS[name]}")
                metrics = self.evaluator.metrics(model, "test")
                values |= {f"{name}/{key}": value for key, value in metrics.items()}
        return values

    def examples(self) -> Sequence[Example]:
        """Answers of the base and of the policy, once ``at_the_end`` has measured them."""
        return self.evaluator.examples() if self.evaluator else ()

    def held_out(self) -> Sequence[HeldOut]:
        """All that ``examples`` are drawn from, with their scores."""
        return self.evaluator.held_out() if self.evaluator else ()

    @contextmanager
    def _whole_policy(self, step: int) -> Iterator[None]:
        """Gather the policy's weights from the other processes, where they are sharded, and tell
        the engines of them."""
        if self.learner.sharded:
            self.players.processes.broadcast(Command.GATHER_WEIGHTS)
        with memory_guard("evaluation"), self.learner.whole_policy():
            self.players.sync(step, ALONE)
            yield
