"""Keys and values of the rows that are decoded: layers write new columns, and read all so far."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache


class RowCache(Cache):
    """Keys and values of all layers, [rows, heads, columns, head_dim], allocated once.

    A forward pass writes at columns ``length`` onwards; ``advance`` makes them count.
    """

    def __init__(self, columns: int):
        super().__init__(layers=[])
        self.columns = columns
        self.length = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Write one layer's new columns; return everything written so far."""
        if layer_idx == len(self.keys):
            rows, heads, _, size = key_states.shape
            self.keys.append(key_states.new_empty(rows, heads, self.columns, size))
            self.values.append(value_states.new_empty(rows, heads, self.columns, size))
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        end = self.length + key_states.shape[2]
        keys[:, :, self.length : end] = key_states
        values[:, :, self.length : end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, columns: int) -> None:
        self.length += columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def fill_from(self, prompts: RowCache, rows: Tensor, owners: Tensor, count: int) -> None:
        """Begin ``rows`` (of ``count`` in all) with what ``prompts`` holds of their ``owners``."""
        for buffers, sources in ((self.keys, prompts.keys), (self.values, prompts.values)):
            for layer, source in enumerate(sources):
                if layer == len(buffers):
                    buffers.append(
                        source.new_empty(count, source.shape[1], self.columns, source.shape[3])
                    )
                buffers[layer][rows, :, : prompts.length] = source[owners]
        self.length = prompts.length

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) the given rows, in that order; only written columns are copied."""
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = old.new_empty(len(rows), *old.shape[1:])
                new[:, :, : self.length] = old[rows, :, : self.length]
                buffers[layer] = new
