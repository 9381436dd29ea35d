"""A decoder of the LLaMA kind with random weights, and greedy decoding with a cache of keys and values."""

from __future__ import annotations

import time
from typing import Any

import bittersweet as bs
import torch
from torch import nn
from torch.nn import functional

BF16 = torch.bfloat16
PROMPT, TOKENS = 48, 32
SIZES = {"width": 1024, "blocks": 14, "heads": 16, "wide": 2816, "words": 32_000}
QUICK = {"width": 128, "blocks": 2, "heads": 4, "wide": 352, "words": 1000}
FARTHEST = 0.1
"""Standard deviations of the dense logits that the token of the packed model may lie below the largest."""


class Block(nn.Module):
    """Attention with rotary positions and SwiGLU, each behind a norm and added to its input."""

    def __init__(self, width: int, wide: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, wide, bias=False) for _ in range(2))
        self.down = nn.Linear(wide, width, bias=False)
        self.before_attention, self.before_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        cache = torch.zeros(2, heads, length, width // heads)
        self.register_buffer("cache", cache, persistent=False)

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], at: int) -> torch.Tensor:
        """`x` is (tokens, width), the first of them at the place `at`."""
        end = at + len(x)
        h = self.before_attention(x)
        q, k, v = (
            each(h).unflatten(-1, (self.heads, -1)).transpose(0, 1) for each in (self.q, self.k, self.v)
        )
        self.cache[0, :, at:end], self.cache[1, :, at:end] = _turned(k, turn), v
        seen = functional.scaled_dot_product_attention(
            _turned(q, turn)[None], *self.cache[:, None, :, :end].unbind(), is_causal=len(x) > 1
        )[0]
        x = x + self.o(seen.transpose(0, 1).flatten(1))
        h = self.before_mlp(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


def _turned(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * turn[0] + torch.cat((-second, first), -1) * turn[1]


class Decoder(nn.Module):
    """Tokens to the logits of the next one. The embedding and the output layer are two matrices."""

    def __init__(self, width: int, blocks: int, heads: int, wide: int, words: int) -> None:
        super().__init__()
        length, half = PROMPT + TOKENS, width // heads // 2
        self.embedding = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(Block(width, wide, heads, length) for _ in range(blocks))
        self.norm, self.lm_head = nn.RMSNorm(width), nn.Linear(width, words, bias=False)
        angles = torch.arange(length)[:, None] * 10_000 ** -(torch.arange(half) / half)
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("turns", torch.stack((angles.cos(), angles.sin())), persistent=False)

    def forward(self, tokens: torch.Tensor, at: int) -> torch.Tensor:
        """Logits after the last of `tokens`, which begin at the place `at` > 0 or make up a whole prompt."""
        x = self.embedding(tokens)
        turn = self.turns[0, at : at + len(tokens)], self.turns[1, at : at + len(tokens)]
        for block in self.blocks:
            x = block(x, turn, at)
        return self.lm_head(self.norm(x[-1:]))[0]


class Subject:
    """A decoder of bfloat16 of about 246 million weights, all of whose linear layers may be pruned."""

    title = "a decoder"

    def __init__(self, quick: bool) -> None:
        torch.manual_seed(0)
        sizes = QUICK if quick else SIZES
        self.model = Decoder(**sizes).to(BF16).eval().requires_grad_(False)
        self.prompt = torch.randint(sizes["words"], (PROMPT,))

    def prune(self, sparsity: float) -> None:
        """One global threshold on the magnitudes of all linear layers."""
        bs.prune_(self.model, sparsity=sparsity, scorer="magnitude")

    @torch.inference_mode()
    def run(self) -> dict[str, float]:
        """Seconds for the prompt, and for each further token."""
        begin = time.perf_counter()
        token = self.model(self.prompt, 0).argmax()
        ready = time.perf_counter()
        self.found = [token]
        for at in range(PROMPT, PROMPT + TOKENS - 1):
            self.found.append(self.model(self.found[-1][None], at).argmax())
        done = time.perf_counter()
        return {"prompt": ready - begin, "token": (done - ready) / (TOKENS - 1)}

    @torch.inference_mode()
    def check(self) -> dict[str, Any]:
        """Unpacks the model, reads the tokens of the last run with it, and compares: which of them it would
        have chosen itself, and how far below its largest logit the others are.

        Raises RuntimeError when one lies farther below than FARTHEST.
        """
        bs.sparse.unpack_(self.model)
        same, farthest = 0, 0.0
        for place, token in enumerate(self.found):
            if place == 0:
                logits = self.model(self.prompt, 0).float()
            else:
                logits = self.model(self.found[place - 1][None], PROMPT + place - 1).float()
            below = float((logits.max() - logits[token]) / logits.std())
            same += below == 0.0
            farthest = max(farthest, below)
        if not farthest <= FARTHEST:
            raise RuntimeError(f"a token lies {farthest:.3f} standard deviations below the dense model's")
        return {"same_tokens": same, "tokens": len(self.found), "farthest": farthest}
