"""A byte-level GPT for two CPU cores: pre-norm blocks, learned positions, head tied to the embedding."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from bittersweet.demo.plan import Plan

VOCABULARY = 256


class Block(nn.Module):
    """Causal self-attention and a four times wider GELU layer, each behind a norm and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        change: Tensor = self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return x + change


class ByteGPT(nn.Module):
    """Logits (batch, length, 256) for bytes (batch, length), length <= `plan.context`.

    Bittersweet prunes the four Linear weights of each block. The embedding, which is also the head, the
    positions and the norms stay dense.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, plan.width)
        self.position = nn.Embedding(plan.context, plan.width)
        self.blocks = nn.ModuleList(Block(plan.width, plan.heads) for _ in range(plan.layers))
        self.norm = nn.LayerNorm(plan.width)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * plan.layers) ** 0.5 if residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.embedding.weight)

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross-entropy (nats per byte) of every byte of `windows` (n, context + 1) but the first."""
        logits = self(windows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
