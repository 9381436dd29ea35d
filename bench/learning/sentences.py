"""A sentence encoder: pretrained on half of the standard library's docstrings, fine-tuned on the other.

Pretraining is dense and contrastive: the two halves of a docstring belong together. Fine-tuning tells from
which of twelve packages a docstring comes; a quarter of them is held out.
"""

from __future__ import annotations

import ast
import collections
import copy
import functools
import hashlib
import platform
import re
import sysconfig
from pathlib import Path

import torch
from bittersweet.demo.text import stdlib_sources
from torch import nn
from torch.nn import functional

from .task import Start, Task

PACKAGES = (
    "tkinter", "asyncio", "importlib", "email", "logging", "xml",
    "_pydecimal", "multiprocessing", "turtle", "unittest", "mailbox", "http",
)  # fmt: skip
GONE = ("idlelib", "distutils", "lib2to3")  # not in every Python
WORDS, LENGTH, WIDTH, BATCH, PAD = 3000, 16, 96, 32, 0


class Encoder(nn.Module):
    """Words (n, LENGTH) to vectors (n, WIDTH): two blocks, the mean over words. 220,000 prunable weights."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        empty = words == PAD
        x = self.words(words) + self.places.weight
        for block in self.blocks:
            x = block(x, src_key_padding_mask=empty)
        kept = (~empty).unsqueeze(2).float()
        mean: torch.Tensor = (self.norm(x) * kept).sum(1) / kept.sum(1)
        return mean


class Classifier(nn.Module):
    """An encoder with a linear head, which is not pruned."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(WIDTH, len(PACKAGES))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.encoder(words))
        return out


def docstrings() -> dict[str, list[list[str]]]:
    """The words of every docstring of at least twelve, by top-level package."""
    root, found = Path(sysconfig.get_path("stdlib")), collections.defaultdict(list)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in stdlib_sources(root):
        package = path.relative_to(root).parts[0].removesuffix(".py")
        if package in GONE:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, documented):
                words = re.findall("[a-z]+", (ast.get_docstring(node) or "").lower())
                if len(words) >= 12:
                    found[package].append(words)
    return found


def task(quick: bool) -> Task:
    found = docstrings()
    counts = collections.Counter(word for texts in found.values() for words in texts for word in words)
    number = {word: place + 2 for place, (word, _) in enumerate(counts.most_common(WORDS - 2))}

    def encoded(words: list[str]) -> torch.Tensor:
        row = torch.full((LENGTH,), PAD)
        row[: len(words)] = torch.tensor([number.get(word, 1) for word in words[:LENGTH]])
        return row

    rest = [words for package in sorted(found) if package not in PACKAGES for words in found[package]]
    halves = [torch.stack([encoded(part(words)) for words in rest]) for part in (_first_half, _second_half)]
    texts = torch.stack([encoded(words) for package in PACKAGES for words in found[package]])
    labels = torch.tensor([place for place, package in enumerate(PACKAGES) for _ in found[package]])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    texts, labels, held_out = texts[order], labels[order], len(labels) // 4
    pretraining = 8 if quick else 150

    @functools.cache
    def pretrained(seed: int) -> Encoder:
        return _pretrain(Encoder(), halves, pretraining, seed)

    def begin(seed: int) -> Start:
        model = Classifier(copy.deepcopy(pretrained(seed)))
        batches = torch.Generator().manual_seed(seed)

        def loss(step: int) -> torch.Tensor:
            chosen = torch.randint(held_out, len(labels), (BATCH,), generator=batches)
            return functional.cross_entropy(model(texts[chosen]), labels[chosen])

        def evaluate() -> float:
            right = model(texts[:held_out]).argmax(1) == labels[:held_out]
            return 100.0 * float(right.float().mean())

        return Start(model, loss, evaluate)

    digest = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:12]
    return Task(
        "sentences",
        "sentence encoder, fine-tuned",
        "accuracy on held-out docstrings, %",
        True,
        24 if quick else 200,
        4e-3,
        f"{len(labels):,} docstrings of {len(PACKAGES)} packages, after {pretraining} steps on {len(rest):,} "
        f"of others, Python {platform.python_version()}, {digest}",
        begin,
        pretrained=True,
    )


def _first_half(words: list[str]) -> list[str]:
    return words[: len(words) // 2]


def _second_half(words: list[str]) -> list[str]:
    return words[len(words) // 2 :]


def _pretrain(encoder: Encoder, halves: list[torch.Tensor], steps: int, seed: int) -> Encoder:
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    batches = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(halves[0]), (48,), generator=batches)
        a, b = (functional.normalize(encoder(half[chosen]), dim=1) for half in halves)
        loss = functional.cross_entropy(a @ b.T / 0.1, torch.arange(48))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder
