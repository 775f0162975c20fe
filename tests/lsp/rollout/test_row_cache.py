"""Keys and values of decoded rows: what is written is what is read, row by row."""

import torch

from lsp.rollout.row_cache import RowCache


def columns(*rows):
    """[rows, 1 head, columns, 1] of the given numbers."""
    return torch.tensor(rows, dtype=torch.float32)[:, None, :, None]


def read(cache, layer=0):
    return cache.keys[layer][:, 0, : cache.length, 0].tolist()


def test_columns_are_written_side_by_side_once_they_count():
    cache = RowCache(4)
    keys, values = cache.update(columns([1, 2], [3, 4]), columns([5, 6], [7, 8]), 0)
    assert keys[:, 0, :, 0].tolist() == [[1, 2], [3, 4]]
    assert values[:, 0, :, 0].tolist() == [[5, 6], [7, 8]]
    assert cache.get_seq_length() == 0  # the second layer writes at the same place
    cache.update(columns([0, 0], [0, 0]), columns([0, 0], [0, 0]), 1)
    cache.advance(2)
    keys, _ = cache.update(columns([9], [10]), columns([0], [0]), 0)
    assert keys[:, 0, :, 0].tolist() == [[1, 2, 9], [3, 4, 10]]
    assert cache.get_seq_length() == 2 and cache.keys[0].shape == (2, 1, 4, 1)


def test_rows_begin_with_what_was_kept_of_their_prompts():
    """Two prompts prefilled apart, shared out to three rows of a longer cache."""
    cache = RowCache(3)
    for rows, prompt in (([0, 2], [1, 2]), ([1], [3, 4])):
        prompts = RowCache(2)
        prompts.update(columns(prompt), columns(prompt), 0)
        prompts.advance(2)
        owners = torch.zeros(len(rows), dtype=torch.long)
        cache.fill_from(prompts, torch.tensor(rows), owners, 3)
    assert cache.length == 2 and read(cache) == [[1, 2], [3, 4], [1, 2]]
    assert cache.values[0][:, 0, :2, 0].tolist() == [[1, 2], [3, 4], [1, 2]]


def test_rows_leave_and_the_rest_goes_on():
    cache = RowCache(3)
    cache.update(columns([1], [2], [3]), columns([4], [5], [6]), 0)
    cache.advance(1)
    cache.select(torch.tensor([2, 0]))
    assert read(cache) == [[3], [1]]
    cache.update(columns([7], [8]), columns([0], [0]), 0)
    cache.advance(1)
    assert read(cache) == [[3, 7], [1, 8]]
