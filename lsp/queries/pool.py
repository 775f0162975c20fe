"""A pool of earlier Challengers: a step goes in, the weights that some of its queries are asked by
come out, so that the Solver does not forget what it was asked before (fictitious play)."""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from lsp.types import DrawKey


class EarlierChallengers:
    """The reference (step 0) and this run's checkpoints, each as likely as another. Which one asks
    is a function of (seed, step); checkpoints are read from the run's folder, so a resumed run has
    the same pool."""

    def __init__(
        self,
        checkpoints: Path,
        every: int,
        reference: PreTrainedModel,
        load: Callable[[Path], PreTrainedModel],
    ):
        self.checkpoints, self.every, self.load = checkpoints, every, load
        self.reference = reference
        self._loaded: tuple[int, PreTrainedModel] = (0, reference)

    def drawn_for(self, step: int, seed: int) -> PreTrainedModel:
        """Who asks beside the policy in this step."""
        saved = (step - 1) // self.every
        (uniform,) = DrawKey(seed, step, "pool").uniforms(0, 1).tolist()
        chosen = int(uniform * (saved + 1)) * self.every
        if chosen == 0:
            return self.reference
        if self._loaded[0] != chosen:
            self._loaded = chosen, self.load(self.checkpoints / f"step-{chosen:06d}")
        return self._loaded[1]
