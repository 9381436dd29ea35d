"""The zeros hold: through optimizers, copies, moves, shared parameters and everything else that writes."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import bittersweet.prune as prune
import pytest
import torch
from torch import nn

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
}


def zeros(module: nn.Module, name: str = "weight") -> bool:
    value = getattr(module, name).detach()
    return bool((value[~prune.mask_of(module, name).bool()] == 0).all())


def half(module: nn.Module, name: str = "weight") -> nn.Module:
    return prune.l1_unstructured(module, name, 0.5)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, *shape: int) -> None:
    model(torch.randn(*shape)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("made", ["before", "after"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_made_before_or_after(name: str, made: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(3):
        step(model, optimizer, 8, 12)  # momentum that would move pruned weights
    half(model[0])
    half(model[0], "bias")
    if made == "after":
        optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(4):
        before = model[0].weight.detach().clone()
        model(torch.randn(8, 12)).square().sum().backward()
        dead = ~prune.mask_of(model[0], "weight").bool()
        assert (model[0].weight.grad[dead] == 0).all() and (model[0].weight.grad[~dead] != 0).any()
        optimizer.step()
        assert zeros(model[0]) and zeros(model[0], "bias")  # at once, before any forward pass
        assert not torch.equal(before, model[0].weight)
        optimizer.zero_grad()


def test_an_optimizer_that_writes_through_data() -> None:
    class Careless(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.add_(1.0)

    layer = half(nn.Linear(9, 9))
    Careless(layer.parameters(), {}).step()
    assert zeros(layer) and (layer.weight != 0).any()


def test_training_is_that_of_torchs_masked_weights() -> None:
    import torch.nn.utils.prune as torchs

    a = net()
    b = copy.deepcopy(a)
    for lib, model in ((prune, a), (torchs, b)):
        lib.global_unstructured([(model[0], "weight"), (model[2], "weight")], lib.L1Unstructured, amount=0.7)
    first, second = (torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (a, b))
    x = torch.randn(16, 12)
    for _ in range(5):
        for model, optimizer in ((a, first), (b, second)):
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(a(x), b(x))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_copies_hold_masks_of_their_own(how: str) -> None:
    model = net()
    half(model[0])
    attention = nn.MultiheadAttention(8, 2)
    half(attention.out_proj)
    whole = nn.ModuleList([model, attention])
    if how == "save":
        torch.save(whole, file := io.BytesIO())
        file.seek(0)
        made = torch.load(file, weights_only=False)
    else:
        made = copy.deepcopy(whole) if how == "deepcopy" else pickle.loads(pickle.dumps(whole))
    prune.remove(model[0], "weight")
    optimizer = OPTIMIZERS["sgd"](made.parameters())
    for _ in range(3):
        out, _ = made[1](*[torch.randn(3, 1, 8)] * 3)
        (out.square().sum() + made[0](torch.randn(4, 12)).square().sum()).backward()
        optimizer.step()
    assert zeros(made[0][0]) and zeros(made[1].out_proj)
    with torch.no_grad():
        made[0][0].weight.fill_(1.0)
        model[0].weight.fill_(1.0)
    made[0](torch.randn(4, 12)), model(torch.randn(4, 12))
    assert zeros(made[0][0]) and (model[0].weight == 1).all()


def test_a_forward_pass_sees_zeros_whatever_has_written() -> None:
    layer = half(nn.Linear(6, 6))
    before = layer.weight
    dense = {"weight": torch.ones(6, 6), "bias": torch.zeros(6)}

    def average() -> None:
        layer.weight.data = torch.ones(6, 6)

    def other_parameter() -> None:
        layer.weight = nn.Parameter(torch.ones(6, 6))

    writers = [
        lambda: layer.load_state_dict(dense),
        lambda: nn.init.ones_(layer.weight),
        average,
        other_parameter,
    ]
    for write in writers:
        write()
        assert torch.equal(
            layer(torch.eye(6)).detach() - layer.bias.detach(),
            prune.mask_of(layer, "weight").bool().T.float(),
        )
        assert zeros(layer)
    assert layer.weight is not before
    layer(torch.ones(1, 6)).sum().backward()
    assert (layer.weight.grad == 0).sum() == 18


def test_nan_and_infinite_gradients_do_not_reach_pruned_weights() -> None:
    layer = half(nn.Linear(4, 4))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    (layer(torch.full((1, 4), float("inf"))) * float("nan")).sum().backward()
    dead = ~prune.mask_of(layer, "weight").bool()
    assert (layer.weight.grad[dead] == 0).all() and not layer.weight.grad[~dead].isfinite().any()
    optimizer.step()
    assert zeros(layer)


def test_one_module_in_one_graph_twice_and_gradients_of_gradients() -> None:
    layer = half(nn.Linear(5, 5))
    y = layer(torch.tanh(layer(torch.randn(2, 5))))
    (gradient,) = torch.autograd.grad(y.square().sum(), layer.weight, create_graph=True)
    dead = ~prune.mask_of(layer, "weight").bool()
    assert (gradient[dead] == 0).all() and gradient.requires_grad
    gradient.square().sum().backward()
    assert (layer.weight.grad[dead] == 0).all() and (layer.weight.grad[~dead] != 0).any()


def test_accumulation_and_frozen_weights() -> None:
    layer = nn.Linear(5, 5)
    layer.weight.requires_grad_(False)
    half(layer)
    layer.weight.requires_grad_(True)
    for _ in range(3):
        layer(torch.randn(2, 5)).sum().backward()
    assert (layer.weight.grad[~prune.mask_of(layer, "weight").bool()] == 0).all()


def test_functional_call_and_transforms() -> None:
    layer = half(nn.Linear(5, 4))
    keep = prune.mask_of(layer, "weight").bool()
    given = {"weight": torch.ones(4, 5, requires_grad=True), "bias": torch.zeros(4)}
    for _ in range(2):  # the tensors given are left as they are
        out = torch.func.functional_call(layer, given, torch.ones(1, 5))
        assert torch.equal(out[0], keep.sum(1).float())
    out.sum().backward()
    assert torch.equal(given["weight"].grad, keep.float()) and (given["weight"] == 1).all()

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, parameters, x).sum()

    plain = {name: value.detach() for name, value in layer.named_parameters()}
    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(plain, torch.ones(3, 2, 5))
    assert torch.equal(per_sample["weight"], 2 * keep.float().expand(3, 4, 5))
    with pytest.raises(RuntimeError, match="mat1"):
        torch.func.functional_call(layer, given, torch.ones(1, 6))
    assert isinstance(layer.weight, nn.Parameter) and not layer._forward_hooks


def test_shared_parameters() -> None:
    embedding, head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, head)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    model(torch.arange(11)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    half(head)
    half(embedding)  # both names hold masks: the zeros are those of both
    for _ in range(3):
        model(torch.arange(11)).square().sum().backward()
        optimizer.step()
        assert zeros(head) and zeros(embedding) and (embedding.weight == 0).sum() >= 33
        optimizer.zero_grad()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models(backend: str) -> None:
    model = net()
    half(model[0])
    half(model[2])
    compiled = torch.compile(model, backend=backend)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    for _ in range(3):
        x = torch.randn(8, 12)
        with torch.no_grad():
            model[0].weight.add_(1.0)
            assert torch.allclose(compiled(x), model(x))
        compiled(x).square().sum().backward()
        assert (model[0].weight.grad == 0).sum() >= 120
        optimizer.step()
        assert zeros(model[0]) and zeros(model[2])
        optimizer.zero_grad()


def test_recurrent_checkpointed_and_moved_modules() -> None:
    lstm = half(nn.LSTM(5, 7), "weight_hh_l0")
    optimizer = OPTIMIZERS["sgd"](lstm.parameters())
    lstm(torch.randn(3, 2, 5))[0].square().sum().backward()
    optimizer.step()
    assert zeros(lstm, "weight_hh_l0")

    model = net()
    half(model[0])
    x = torch.randn(4, 12, requires_grad=True)
    torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False).sum().backward()
    assert (model[0].weight.grad == 0).sum() >= 120

    model.to(torch.bfloat16)
    model(torch.randn(4, 12, dtype=torch.bfloat16)).sum().backward()
    assert zeros(model[0]) and model[0].weight.dtype is torch.bfloat16
    convolution = half(nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last)
    nn.init.ones_(convolution.weight)
    convolution(torch.randn(1, 3, 5, 5)).sum().backward()
    assert zeros(convolution) and (convolution.weight.grad == 0).sum() == 54


def test_inference_and_sparse_gradients() -> None:
    layer = half(nn.Linear(4, 4))
    with torch.inference_mode():
        nn.init.ones_(layer.weight)
        layer(torch.ones(1, 4))
        made = half(nn.Linear(4, 4))
        nn.init.ones_(made.weight)
        made(torch.ones(1, 4))
        assert zeros(made)
    assert zeros(layer)
    table = half(nn.Embedding(10, 4, sparse=True))
    table(torch.tensor([1, 2, 1])).sum().backward()
    assert (table.weight.grad.to_dense()[~prune.mask_of(table, "weight").bool()] == 0).all()


def test_replicas_are_masked_as_functional_calls_are() -> None:
    """What DataParallel makes of a module: the parameters are plain attributes, results of a broadcast."""
    layer = half(nn.Linear(5, 4, bias=False))
    replica = layer._replicate_for_data_parallel()
    replica.weight, replica.bias = torch.ones(4, 5), None
    assert torch.equal(replica(torch.ones(1, 5))[0], prune.mask_of(layer, "weight").bool().sum(1).float())


def test_nothing_is_kept_alive_or_written_twice() -> None:
    layer = half(nn.Linear(30, 30))
    layer(torch.ones(1, 30))
    version = layer.weight._version
    layer(torch.ones(1, 30))
    assert layer.weight._version == version
    assert prune.mask_of(layer, "weight").nbytes == 8 * 15
    parameter, module = layer.weight, weakref.ref(layer)
    del layer
    gc.collect()
    assert module() is None
    parameter.sum().backward()
    assert (parameter.grad == 1).all()


def test_remove_leaves_zeros_and_the_same_parameter() -> None:
    layer = nn.Linear(6, 6)
    parameter = layer.weight
    half(layer)
    half(layer, "bias")
    nn.init.ones_(layer.weight)
    assert prune.remove(layer, "weight") is layer
    assert layer.weight is parameter and (parameter == 0).sum() == 18
    assert prune.is_pruned(layer) and prune.is_pruned(nn.Sequential(layer))
    prune.remove(layer, "bias")
    assert not prune.is_pruned(layer) and not layer._forward_pre_hooks
    layer(torch.ones(1, 6)).sum().backward()
    assert (layer.weight.grad == 1).all()
