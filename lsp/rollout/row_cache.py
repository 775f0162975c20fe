"""Keys and values of the rows that are decoded: layers write new columns, and read all so far."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache


class RowCache(Cache):
    """Keys and values of all layers, [rows, heads, columns, head_dim], allocated once. A forward
    pass writes at columns ``length`` onwards; ``advance`` makes them count."""

    def __init__(self, columns: int):
        super().__init__(layers=[])
        self.columns = columns
        self.length = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Write one layer's new columns; return everything written so far."""
        end = self.length + key_states.shape[2]
        for buffers, states in ((self.keys, key_states), (self.values, value_states)):
            self._buffer(buffers, layer_idx, states, len(states))[:, :, self.length : end] = states
        return self.keys[layer_idx][:, :, :end], self.values[layer_idx][:, :, :end]

    def _buffer(self, buffers: list[Tensor], layer: int, states: Tensor, rows: int) -> Tensor:
        """A layer's keys or values of ``rows`` rows; its first ``states`` show the other sizes."""
        if layer == len(buffers):
            _, heads, _, size = states.shape
            buffers.append(states.new_empty(rows, heads, self.columns, size))
        return buffers[layer]

    def advance(self, columns: int) -> None:
        self.length += columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def fill_from(self, prompts: RowCache, rows: Tensor, owners: Tensor, count: int) -> None:
        """Begin ``rows`` (of ``count`` in all) with what ``prompts`` holds of their ``owners``."""
        for buffers, sources in ((self.keys, prompts.keys), (self.values, prompts.values)):
            for layer, source in enumerate(sources):
                buffer = self._buffer(buffers, layer, source, count)
                buffer[rows, :, : prompts.length] = source[owners]
        self.length = prompts.length

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) the given rows, in that order; only written columns are copied."""
        taken = self.taken(rows)
        self.keys, self.values = taken.keys, taken.values

    def taken(self, rows: Tensor) -> RowCache:
        """A cache of the given rows, in that order; this one stays as it is."""
        taken = RowCache(self.columns)
        taken.length = self.length
        for old, new in ((self.keys, taken.keys), (self.values, taken.values)):
            for source in old:
                new.append(source.new_empty(len(rows), *source.shape[1:]))
                new[-1][:, :, : self.length] = source[rows, :, : self.length]
        return taken
