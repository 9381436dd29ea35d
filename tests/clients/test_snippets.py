"""The snippets of docs/clients.md run, each on a model and data of its own, and leave half of it at 0.

So do whole pages that need a package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import mlp

TEXT = (Path(__file__).resolve().parents[2] / "docs/clients.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```python (\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
PACKAGES = {"several": "torch"}


def given() -> dict[str, Any]:
    loader = torch.utils.data.DataLoader(torch.randn(128, 16), batch_size=4)
    model = mlp()
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-2), "loader": loader}


def test_all_are_here() -> None:
    assert set(BLOCKS) == {"accelerate", "several"}


@pytest.mark.parametrize("name", BLOCKS)
def test_snippet(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(PACKAGES.get(name, name))
    monkeypatch.chdir(tmp_path)
    if name == "accelerate":
        import accelerate

        accelerate.state.AcceleratorState._reset_state(True)
    names: dict[str, Any] = {"__name__": "__main__", **given()}
    exec(compile(BLOCKS[name], f"docs/clients.md, {name}", "exec"), names)
    assert bs.sparsity(names["model"]).matrices.zero == pytest.approx(0.5, abs=1e-3)


PAGES = {
    "coming_from/lightning.md": "lightning",
    "guides/lightning.md": "lightning",
    "guides/lora.md": "peft",
    "guides/trainer.md": "transformers",
}


@pytest.mark.filterwarnings("ignore:.*(GPU available|many workers|does not have a)")
@pytest.mark.parametrize("page", PAGES)
def test_page_runs_as_printed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, with data of its own, and with the assertions that the page prints."""
    pytest.importorskip(PAGES[page])
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).resolve().parents[2] / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python \w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks and all("assert " in block for block in blocks)
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/{page}, block {number}", "exec"), names)
