"""`prune_blocks_` against an oracle that recomputes everything from the first block on for every weight."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import bittersweet as bs
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

WIDTH = 16


class Block(nn.Module):
    """Like a GPT block: attention under a mask, an MLP, a tuple out; dropout that eval mode must silence."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.out, self.up, self.down = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.Linear(2 * WIDTH, WIDTH),
        )
        self.dropout = nn.Dropout(0.2)

    def forward(self, hidden: torch.Tensor, *, attention_mask: torch.Tensor) -> tuple[torch.Tensor, None]:
        q, k, v = self.qkv(self.norm(hidden)).chunk(3, -1)
        weights = (q @ k.mT / WIDTH**0.5).masked_fill(~attention_mask[:, None], -1e9).softmax(-1)
        hidden = hidden + self.dropout(self.out(weights @ v))
        return hidden + self.down(self.up(hidden).relu()), None


class Model(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden, attention_mask=mask)[0]
        return self.head(hidden)


def made(blocks: int = 3) -> tuple[Model, list[dict[str, torch.Tensor]]]:
    torch.manual_seed(3)
    model = Model(blocks)
    batches = [
        {
            "tokens": torch.randint(0, 11, (2, length)),
            "mask": torch.ones(2, length, dtype=torch.bool).tril(length - 2),
        }
        for length in (5, 7, 9)
    ]
    return model, batches


def oracle(model: Model, batches: list[Any], recompute: str, sparsity: float) -> None:
    """Prunes by a stable sort of float64-accurate norms; every norm comes from whole passes of the whole
    model.
    """
    layers = ("qkv", "out", "up", "down")
    for block in model.blocks:
        rounds = [layers] if recompute == "block" else [(layer,) for layer in layers]
        for names in rounds:
            squares: dict[str, Any] = {}
            hooks = []
            for name in names:
                squares[name] = []
                hooks.append(
                    getattr(block, name).register_forward_pre_hook(
                        lambda _, args, name=name, squares=squares: squares[name].append(
                            args[0].reshape(-1, args[0].shape[-1])
                        )
                    )
                )
            model.eval()
            with torch.no_grad():
                for batch in batches:
                    model(**batch)
            for hook in hooks:
                hook.remove()
            for name in names:
                weight = getattr(block, name).weight
                norm = torch.cat(squares[name]).float().square().double().mean(0).sqrt().float()
                order = torch.sort(weight.abs() * norm, dim=1, stable=True)[1]
                with torch.no_grad():
                    weight.scatter_(1, order[:, : int(weight.shape[1] * sparsity)], 0.0)
    model.train()


@pytest.mark.parametrize("recompute", ["block", "layer"])
def test_weights_equal_those_of_an_oracle_that_recomputes_everything(recompute: str) -> None:
    model, batches = made()
    expected = copy.deepcopy(model)
    oracle(expected, batches, recompute, 0.6)
    inputs = bs.capture_block_inputs(model, model.blocks[0], batches)
    report = bs.prune_blocks_(model.blocks, inputs, sparsity=0.6, rounding="floor", recompute=recompute)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert all(module.training for module in model.modules())
    per_block = 1 if recompute == "block" else 4  # the cache: one calibration instead of one per layer
    assert report.calibrations == (per_block,) * 3
    assert report.forwards == (per_block + 1, per_block + 1, per_block)
    assert report.achieved_sparsity == pytest.approx(0.6, abs=0.05)
    assert set(report.events[0].per_tensor) <= {f"0.{name}.weight" for name in ("qkv", "out", "up", "down")}
    assert f"calibrations per block: {per_block};" in str(report)


def test_later_blocks_see_what_pruned_ones_make() -> None:
    """With the dense model's norms for every block, other weights go."""
    model, batches = made()
    one_shot = copy.deepcopy(model)
    inputs = bs.capture_block_inputs(model, model.blocks[0], batches)
    bs.prune_blocks_(model.blocks, inputs, sparsity=0.7)
    calibrator = bs.Calibrator(one_shot, targets="blocks.*").run(batches)
    bs.prune_(calibrator.score_inputs(), sparsity=0.7, scorer="wanda", scope="row")
    zeros, others = (
        [{name: value == 0 for name, value in m.state_dict().items() if "blocks" in name}][0]
        for m in (model, one_shot)
    )
    same = {name: torch.equal(zeros[name], others[name]) for name in zeros}
    assert all(same[f"blocks.0.{layer}.weight"] for layer in ("qkv", "out", "up", "down"))
    assert not same["blocks.2.up.weight"]


@pytest.mark.parametrize("scope", ["2:4", "tensor"])
def test_other_scopes_and_plain_sequential_models(scope: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    x = torch.randn(50, 8)
    untouched = x.clone()
    report = bs.prune_blocks_(model, [x], sparsity=0.5, scope=scope)
    assert report.calibrations == (1, 0, 1)
    assert report.forwards == (2, 1, 1)
    assert report.achieved_sparsity == 0.5
    assert torch.equal(x, untouched)
    only = bs.prune_blocks_(nn.ModuleList(list(model)), [x], sparsity=0.75, ignore="0.*")
    assert [list(event.per_tensor) for event in only.events] == [["2.weight"]]


def test_one_set_of_hidden_states_is_alive() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            nonlocal most
            out = self.linear(x)
            gc.collect()
            alive.append(weakref.ref(out))
            most = max(most, sum(ref() is not None for ref in alive))
            return out

    samples = 5
    model = nn.Sequential(*(Watching() for _ in range(4)))
    bs.prune_blocks_(model, (torch.randn(2, 4) for _ in range(samples)), sparsity=0.5)
    assert most == samples + 1  # the inputs of one block, and the output that is being made


def test_capture_gives_the_arguments_of_the_first_block_and_leaves_the_model_as_it_was() -> None:
    model, batches = made()
    model.head.eval()
    inputs = bs.capture_block_inputs(model, model.blocks[0], batches)
    assert len(inputs) == 3
    with torch.no_grad():
        assert torch.equal(inputs[1].hidden, model.embedding(batches[1]["tokens"]))
    assert inputs[1].kwargs["attention_mask"] is batches[1]["mask"]
    assert [len(m._forward_pre_hooks) for m in model.modules()].count(0) == len(list(model.modules()))
    assert not model.head.training
    assert model.blocks[0].dropout.training
    with pytest.raises(bs.ArgumentError, match="did not call it on batch 0"):
        bs.capture_block_inputs(model, nn.Linear(2, 2), batches)
    with pytest.raises(TypeError):
        bs.capture_block_inputs(model, model.blocks[0], [{"unknown": 1}])
    assert not model.blocks[0]._forward_pre_hooks


def test_bad_options_are_refused_before_anything_is_written() -> None:
    model, batches = made(2)
    before = copy.deepcopy(model.state_dict())
    inputs = bs.capture_block_inputs(model, model.blocks[0], batches)
    for options, error, message in (
        ({"sparsity": 0.5, "scope": "global"}, bs.ArgumentError, "scope: 'global' needs all scores at once"),
        ({"sparsity": 1.5}, bs.ArgumentError, "sparsity"),
        ({}, bs.ArgumentError, "sparsity"),
        ({"scope": "2:5"}, bs.ShapeError, "does not divide"),
        ({"sparsity": 0.5, "recompute": "never"}, bs.ArgumentError, "recompute: 'never'"),
        ({"sparsity": 0.5, "targets": "2.*"}, bs.ArgumentError, "targets names '2.*'"),
    ):
        with pytest.raises(error, match=message.replace("*", r"\*")):
            bs.prune_blocks_(model.blocks, inputs, **options)
    with pytest.raises(bs.ArgumentError, match="inputs: there are none"):
        bs.prune_blocks_(model.blocks, [], sparsity=0.5)
    with pytest.raises(bs.ArgumentError, match="no tensor among its arguments"):
        bs.prune_blocks_(model.blocks, [3], sparsity=0.5)
    with pytest.raises(bs.ArgumentError, match="blocks: accepted"):
        bs.prune_blocks_([], inputs, sparsity=0.5)
    unmeasured = nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose1d(4, 4, 1))
    with pytest.raises(bs.ArgumentError, match="transposed convolution"):
        bs.prune_blocks_(unmeasured, [torch.ones(1, 4)], sparsity=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not (unmeasured[0].weight == 0).any()
