"""A decoder's shape goes in; its parameters, cache and operations come out. No torch here."""

import json

from lsp.settings.config import ModelShape, local_model_folder

COUNTED = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers are what is counted here: grouped attention, a gated MLP, two norms."""


class UnknownShape(ValueError):
    """A model whose parameters cannot be counted; the text says why, and the way out."""


def shape_of(name: str, shipped: ModelShape | None, key: str) -> ModelShape:
    """The shape of a model: from its folder's config.json, or ``shipped`` where that is of this Hub
    id. Raises UnknownShape; its text names the setting ``key`` (``model.shape``) to give."""
    folder = local_model_folder(name)
    if folder is None:
        if shipped is not None and shipped.of == name:
            return shipped
        raise UnknownShape(
            f"{name} is a Hub model whose shape is not known; give {key}.of={name} and the numbers"
            " of its config.json beside it, or a local folder"
        )
    try:
        config_json = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, hidden = config_json["model_type"], config_json["hidden_size"]
        heads = config_json["num_attention_heads"]
        biased = config_json.get("mlp_bias") or config_json.get("attention_bias")
        if kind in COUNTED and not biased:
            return ModelShape(
                of=name,
                layers=config_json["num_hidden_layers"],
                hidden=hidden,
                intermediate=config_json["intermediate_size"],
                heads=heads,
                kv_heads=config_json.get("num_key_value_heads") or heads,
                head_size=config_json.get("head_dim") or hidden // heads,
                vocabulary=config_json["vocab_size"],
                tied=config_json.get("tie_word_embeddings", False),
                qkv_bias=kind == "qwen2",
                qk_norm=kind == "qwen3",
            )
        fault = (
            f"the parameters of a {kind} model with such layers are not counted here, only those"
        )
        fault += f" of {', '.join(COUNTED)}"
    except (OSError, KeyError, ValueError) as error:
        fault = f"its config.json does not tell its shape ({error})"
    raise UnknownShape(f"{folder}: {fault}")


def linear_layers(shape: ModelShape) -> list[tuple[int, int]]:
    """(inputs, outputs) of a decoder layer's seven products: q, k, v, o, gate, up, down."""
    d, i = shape.hidden, shape.intermediate
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    return [(d, q), (d, kv), (d, kv), (q, d), (d, i), (d, i), (i, d)]


def layer_parameters(shape: ModelShape) -> int:
    """Of one decoder layer: products, two norms, biases and head norms where it has them."""
    kv = shape.kv_heads * shape.head_size
    biases = shape.qkv_bias * (shape.heads * shape.head_size + 2 * kv)
    norms = 2 * shape.hidden + shape.qk_norm * 2 * shape.head_size
    return sum(a * b for a, b in linear_layers(shape)) + biases + norms


def parameters(shape: ModelShape, classifier: bool = False) -> int:
    """Of the whole model; a ``classifier`` has one row of weights in place of the head."""
    embedding = shape.vocabulary * shape.hidden
    head = shape.hidden if classifier else 0 if shape.tied else embedding
    return shape.layers * layer_parameters(shape) + shape.hidden + embedding + head


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Of the adapters beside every product but the head: two narrow matrices each."""
    return shape.layers * sum(rank * (a + b) for a, b in linear_layers(shape))


def cache_bytes(shape: ModelShape, number_bytes: int) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_size * number_bytes


def forward_flops(shape: ModelShape, tokens: float, context: float, heads: float = 0) -> float:
    """A forward pass over ``tokens`` that see ``context`` others on average: two operations a
    weight of the products, and the two products of attention; the vocabulary head at ``heads``
    positions only."""
    products = sum(a * b for a, b in linear_layers(shape))
    attention = 2 * shape.heads * shape.head_size * context
    head = shape.vocabulary * shape.hidden
    return 2 * (tokens * shape.layers * (products + attention) + heads * head)
