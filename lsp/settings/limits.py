"""How much is computed at once: for those who compute, and for the plan. No torch here."""

TILE_ELEMENTS = 2**23
"""Logits of the loss held at once (32 MB in fp32, twice that with their probabilities)."""

PREFILL_TOKENS = 2**14
"""Padded prompt tokens computed at once; their activations are freed before the next ones."""

SMALLEST_ONEDNN = 2**14
"""Weights of a layer below which a call of oneDNN costs more than the product saves."""

LARGE_MODEL = 2**26
"""Trained and frozen weights above which it pays to give memory back between phases: 0.2 CPU-s."""
