"""A BERT encoder in plain torch, with the weights and tokens of a folder as transformers writes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

# Names in the file -> names here, most specific first.
_NAMES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "places",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
    "encoder.layer": "blocks",
    "attention.self.": "",
    "attention.output.dense": "mix",
    "attention.output.LayerNorm": "mix_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "down_norm",
}


class Block(nn.Module):
    """Attention and MLP, each added to its input and then normalised."""

    def __init__(self, width: int, hidden: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.mix_norm, self.down_norm = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`x` is (batch, tokens, width), `mask` (batch, tokens): True is a token, False padding."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        x = self.mix_norm(x + self.mix(seen.transpose(1, 2).flatten(2)))
        return self.down_norm(x + self.down(functional.gelu(self.up(x))))


class SentenceEncoder(nn.Module):
    """Unit vectors of sentences: the mean of the last block's tokens."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.places = nn.Embedding(config["max_position_embeddings"], width)
        self.types = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps=eps)
        sizes = (width, config["intermediate_size"], config["num_attention_heads"], eps)
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(config["num_hidden_layers"]))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(tokens) + self.places.weight[: tokens.shape[1]] + self.types.weight[0])
        for block in self.blocks:
            x = block(x, mask)
        weights = mask[..., None].to(x.dtype)
        return functional.normalize((x * weights).sum(1) / weights.sum(1), dim=-1)


def load(folder: Path) -> SentenceEncoder:
    """The model in `folder` (config.json, model.safetensors), in eval mode. Its pooling head is not used."""
    from safetensors.torch import load_file

    model = SentenceEncoder(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    weights = {}
    for name, value in load_file(folder / "model.safetensors").items():
        for there, here in _NAMES.items():
            name = name.replace(there, here)
        if not name.startswith("pooler.") and not name.endswith("position_ids"):
            weights[name] = value
    model.load_state_dict(weights)
    return model.eval()


def batches(folder: Path, sentences: Sequence[str], size: int = 16) -> list[dict[str, torch.Tensor]]:
    """The sentences as batches of padded tokens and masks."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    found = []
    for first in range(0, len(sentences), size):
        encoded = tokenizer.encode_batch(list(sentences[first : first + size]))
        found.append(
            {
                "tokens": torch.tensor([one.ids for one in encoded]),
                "mask": torch.tensor([one.attention_mask for one in encoded]).bool(),
            }
        )
    return found
