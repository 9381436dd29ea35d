"""`Pruner` and `CapturableStep` on CUDA: with host memory in its place, and on a GPU where there is one."""

from __future__ import annotations

import io
from contextlib import nullcontext
from typing import Any

import bittersweet as bs
import pytest
import torch
from probe_support import ORDERS, integer_batches, integer_net, square_loss
from pruner_support import LINEAR, ONCE, adamw, backward, everything, facts, mlp, train, unchanged, weights

LATER = bs.LinearRamp(0.2, 0.7, begin_step=4, end_step=12, frequency=4)  # than trackers need


def start(cuda: Any, schedule: Any = LINEAR, **options: Any) -> tuple[Any, Any, Any]:
    model = cuda.put(mlp())
    optimizer = adamw(model)
    return model, optimizer, bs.Pruner(model, optimizer, schedule=schedule, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hold": "grads"},
        {"regrow": True, "scorer": "magnitude"},
        {"regrow": bs.RigL(0.5), "scorer": "magnitude"},
        {"regrow": bs.SET(0.5), "mask_optimizer_state": False, "sync": False},
        {"mask_optimizer_state": False, "scorer": "bitter0"},
        {"sync": False},
        {"sync": False, "hold": "grads", "scorer": "bitter8_bias_corrected"},
        {"schedule": LATER, "scorer": "bitter10"},
        {"schedule": LATER, "scorer": bs.Bitter10(storage="bfloat16"), "sync": False},
        {"schedule": LATER, "scorer": "bitter10s", "regrow": True},
        {"schedule": LATER, "scorer": bs.Bitter10c(every=2)},
        {"schedule": LATER, "scorer": bs.Bitter10c(every=3, storage="bfloat16"), "hold": "grads"},
        {"schedule": LATER, "scorer": "movement"},
        {"schedule": LATER, "scorer": bs.Movement(storage="bfloat16"), "sync": False},
        {"selector": "streaming", "scope": "tensor", "distribution": "layer_adaptive"},
        {"selector": "sampling", "max_tensor_sparsity": 0.72, "sync": False},
        {"selector": "kthvalue", "tensor_sparsity": {"*": (0, 0.8)}},
        {"max_tensor_sparsity": 0.72, "ties": "below", "scorer": "magnitude"},
    ],
)
def test_a_run_is_that_of_the_cpu_bit_for_bit(host_cuda: Any, options: dict[str, Any]) -> None:
    with host_cuda.on_cpu():
        model, optimizer, pruner = start(host_cuda, **options)
        expected = train(model, optimizer, pruner, 13)
        weights_then = everything(model, optimizer)
        masks_then = {name: mask.clone() for name, mask in pruner.masks.items()}
        report_then = pruner.finalize()
    model, optimizer, pruner = start(host_cuda, **options)
    events = train(model, optimizer, pruner, 13)
    assert [facts(event) for event in events] == [facts(event) for event in expected] and len(events) == 3
    for name, tensor in everything(model, optimizer).items():
        assert torch.equal(tensor, weights_then[name]), name
    assert all(torch.equal(mask, masks_then[name]) for name, mask in pruner.masks.items())
    report = pruner.finalize()
    assert report.sparsity == report_then.sparsity and report.finalized
    assert [facts(event) for event in report.history] == [facts(event) for event in report_then.history]


def test_masks_at_events_are_those_of_the_cpu_engine(cuda: Any) -> None:
    model, optimizer, pruner = start(cuda)
    current: dict[str, Any] = {}
    for step in range(1, 12):
        backward(model, step)
        optimizer.step()
        items = [
            bs.ScoreInputs(
                weight.cpu().clone(),
                exp_avg_sq=optimizer.state[model.get_parameter(name)]["exp_avg_sq"].cpu().clone(),
                mask=current.get(name),
                name=name,
            )
            for name, weight in weights(model).items()
        ]
        event = pruner.step()
        if event is not None:
            with cuda.on_cpu():
                masks = bs.make_masks(items, sparsity=event.requested_sparsity)
            current = {mask.name: mask for mask in masks}
            for name, mask in current.items():
                assert torch.equal(pruner.masks[name].cpu(), torch.from_numpy(mask.bool().numpy())), name
            assert masks.event is not None and event.threshold == masks.event.threshold
        for name, mask in current.items():
            assert not weights(model)[name].cpu()[~torch.from_numpy(mask.bool().numpy())].any()
        optimizer.zero_grad()


def test_events_are_read_at_once_and_nothing_is_read_between(cuda: Any) -> None:
    model, optimizer, pruner = start(cuda)
    reads: list[int] = []
    train(model, optimizer, pruner, 12, after=lambda _: reads.append(cuda.reads))
    assert reads == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]


def test_without_sync_nothing_is_read_until_it_is_looked_at(cuda: Any) -> None:
    model, optimizer, pruner = start(cuda, sync=False)
    events = train(model, optimizer, pruner, 12)
    assert cuda.reads == 0 and len(events) == 3
    assert events[2].step == 10 and events[2].achieved_sparsity == pytest.approx(0.7, abs=1e-3)
    assert cuda.reads == 1 and events[2].milliseconds > 0.0
    assert [event.step for event in pruner.history] == [2, 6, 10]
    assert cuda.reads == 3
    assert pruner.report().history == pruner.history


def spoil(model: Any) -> None:
    with torch.no_grad():
        model[2].weight.view(-1)[5] = torch.nan


def test_nan_raises_in_the_step_and_changes_nothing(cuda: Any) -> None:
    model, optimizer, pruner = start(cuda, scorer="magnitude")
    train(model, optimizer, pruner, 5)
    masks = {name: mask.cpu() for name, mask in pruner.masks.items()}
    backward(model, 6)
    optimizer.step()
    spoil(model)
    with unchanged(model, optimizer), pytest.raises(bs.NonFiniteScoreError) as found:
        pruner.step()
    assert (found.value.parameter, found.value.count, found.value.first_index) == ("2.weight", 1, 5)
    assert pruner.state_dict()["step"] == 5 and len(pruner.history) == 1
    assert all(torch.equal(mask.cpu(), masks[name]) for name, mask in pruner.masks.items())


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_a_void_event_keeps_the_masks_and_raises_at_the_read(cuda: Any, hold: str) -> None:
    model, optimizer, pruner = start(cuda, scorer="magnitude", sync=False, hold=hold)
    train(model, optimizer, pruner, 5)
    masks = {name: mask.cpu() for name, mask in pruner.masks.items()}
    backward(model, 6)
    optimizer.step()
    spoil(model)
    event = pruner.step()
    assert event is not None
    with torch.no_grad():
        model[2].weight.view(-1)[5] = 0.25  # repaired before anybody looked
    train(model, optimizer, pruner, 2, first=7)
    for name, mask in pruner.masks.items():
        assert torch.equal(mask.cpu(), masks[name])
        assert not weights(model)[name].cpu()[~mask.cpu()].any()
    with pytest.raises(bs.NonFiniteScoreError, match=r"1 NaN score.* '2\.weight' at flat index 5"):
        event.pruned  # noqa: B018
    assert [event.step for event in pruner.history] == [2]  # nothing is raised twice
    later = train(model, optimizer, pruner, 4, first=9)
    assert [event.step for event in later] == [10] and later[0].achieved_sparsity == pytest.approx(
        0.7, abs=1e-3
    )
    pruner.finalize()


def test_the_history_raises_for_a_void_event_that_nobody_looked_at(cuda: Any) -> None:
    model, _, pruner = start(cuda, scorer="magnitude", sync=False)
    spoil(model)
    pruner.step()
    pruner.step()
    with pytest.raises(bs.NonFiniteScoreError):
        pruner.state_dict()
    assert pruner.history == [] and pruner.sparsity().masked == 0.0


def test_saving_copies_to_the_cpu_and_loading_goes_back(cuda: Any) -> None:
    model, optimizer, pruner = start(cuda)
    train(model, optimizer, pruner, 7)
    file = io.BytesIO()
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "pruner": pruner.state_dict()},
        file,
    )
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert all(words.device.type == "cpu" for words in state["pruner"]["masks"].values())
    again, its_optimizer, its_pruner = start(cuda)
    again.load_state_dict(state["model"])
    its_optimizer.load_state_dict(state["optimizer"])
    its_pruner.load_state_dict(state["pruner"])
    assert all(mask.device == 0 for mask in its_pruner.masks.packed)
    train(model, optimizer, pruner, 5, first=8)
    train(again, its_optimizer, its_pruner, 5, first=8)
    for name, tensor in everything(model, optimizer).items():
        assert torch.equal(tensor, everything(again, its_optimizer)[name]), name


def test_a_model_that_moved_takes_its_masks_along_by_its_state(host_cuda: Any) -> None:
    model, optimizer, pruner = start(host_cuda)
    train(model, optimizer, pruner, 3)
    with host_cuda.on_cpu():
        backward(model, 4)
        optimizer.step()
        with pytest.raises(
            bs.DeviceError, match=r"mask of '0\.weight' is on cuda:0 and its weight on the CPU"
        ):
            pruner.step()
        pruner.load_state_dict(pruner.state_dict())
        assert pruner.masks.packed[0].device == -1
        assert pruner.step() is None
    with pytest.raises(bs.DeviceError, match="on the CPU and its weight on cuda:0"):
        pruner.step()


def test_masks_live_on_the_device_and_sparsity_counts_there(cuda: Any) -> None:
    model, optimizer, pruner = start(cuda)
    place = model[0].weight.device
    assert all(mask.device == place and bool(mask.all()) for mask in pruner.masks.values())
    train(model, optimizer, pruner, 2)
    assert all(mask.device == place for mask in pruner.masks.values())
    found = pruner.sparsity()
    assert found.masked == pytest.approx(0.2, abs=1e-3) == found.zero
    with torch.no_grad():
        model[0].weight[~pruner.masks["0.weight"]] = 1.0
    optimizer.zero_grad()
    backward(model, 3)
    pruner.mask_grads_()
    assert not model[0].weight.grad[~pruner.masks["0.weight"]].any()
    assert pruner.sparsity().zero < 0.2
    pruner.finalize()
    assert pruner.sparsity().zero == pytest.approx(0.2, abs=1e-3)


def test_zeros_are_verified_before_an_event_under_hold_grads(cuda: Any) -> None:
    model, optimizer, pruner = start(cuda, hold="grads")
    train(model, optimizer, pruner, 5)
    with torch.no_grad():
        model[0].weight[~pruner.masks["0.weight"]] = 1.0
    with pytest.raises(bs.Error, match="pruned weights are not 0"):
        train(model, optimizer, pruner, 1, first=6)


def test_skipped_targets_are_listed_without_a_read(cuda: Any) -> None:
    model = cuda.put(mlp())
    model[4].requires_grad_(False)
    optimizer = adamw(model)
    model[4].requires_grad_(True)
    pruner = bs.Pruner(model, optimizer, schedule=ONCE, sync=False, missing="skip")
    model[4].requires_grad_(False)
    backward(model, 1)
    optimizer.step()
    event = pruner.step()
    assert cuda.reads == 0 and event is not None
    assert event.skipped == ("4.weight",)
    pruned = event.pruned / sum(weight.numel() for weight in weights(model).values())
    assert event.achieved_sparsity == pytest.approx(0.5, abs=1e-3)
    assert event.achieved_sparsity_all in (pytest.approx(pruned), pytest.approx(0.5, abs=1e-3))


def test_looks_between_events_count_nothing_that_the_device_must_be_waited_for(
    cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer, pruner = start(cuda, sync=False)
    train(model, optimizer, pruner, 2)
    for count in ("sampling.kept_counts", "keeping.Keeper.violations"):
        monkeypatch.setattr(f"bittersweet.steps.{count}", None)
    train(model, optimizer, pruner, 20, first=3)


def test_a_single_write_that_the_hold_has_repaired_is_said(cuda: Any) -> None:
    model, optimizer, pruner = start(cuda)
    train(model, optimizer, pruner, 17)  # the eighth look since the last event comes next
    with torch.no_grad():
        model[0].weight[~pruner.masks["0.weight"]] = 1.0
    with pytest.warns(UserWarning, match="pruned weights were not 0.*a few steps ago"):
        train(model, optimizer, pruner, 9, first=18)


def test_the_hold_follows_the_current_stream(host_cuda: Any) -> None:
    model, optimizer, pruner = start(host_cuda)
    train(model, optimizer, pruner, 3)
    assert host_cuda.shared == []
    host_cuda.stream = 9
    for step in (4, 5):
        train(model, optimizer, pruner, 1, first=step)
        assert [stream for _, stream in host_cuda.shared] == [9, 9, 9]  # once a stream, not once a step
    host_cuda.stream = 7
    train(model, optimizer, pruner, 1, first=6)


@pytest.mark.parametrize("order", ORDERS)
def test_a_gradient_probe_works_where_the_model_is(cuda: Any, order: str) -> None:
    def probed(put: Any) -> tuple[Any, Any, list[Any]]:
        model, batches = put(integer_net(1)), [tuple(map(put, batch)) for batch in integer_batches()]
        probe = bs.GradientProbe(model, square_loss, batches, reduction=0.5, order=order, progress=False)
        return model, probe, [probe.prune(sparsity) for sparsity in (0.2, 0.5, 0.5)]

    with cuda.on_cpu():
        expected_model, expected_probe, expected = probed(lambda value: value)
        expected_sparsity = expected_probe.sparsity()
    model, probe, found = probed(cuda.put)
    for a, b in zip(model.parameters(), expected_model.parameters(), strict=True):
        assert torch.equal(a.cpu(), b)
    assert [(r.candidates, r.pruned, r.kept) for r in found] == [
        (r.candidates, r.pruned, r.kept) for r in expected
    ]
    assert probe.sparsity() == expected_sparsity
    taken = bs.Pruner(model, scorer="magnitude", schedule=ONCE)
    taken.load_masks(probe.masks)
    assert taken.sparsity().masked == expected_sparsity.masked


# ---- CapturableStep ----


def prepared(cuda: Any, seed: int = 0) -> tuple[list[bs.ScoreInputs], list[bs.ScoreInputs]]:
    """Equal inputs on the CPU and on the device."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for index, size in enumerate((1, 33, 4097)):
        w, v = torch.randn(size, generator=generator), torch.rand(size, generator=generator)
        made = [bs.ScoreInputs(a(w), exp_avg_sq=a(v), name=f"layer{index}") for a in (torch.clone, cuda.put)]
        pairs.append(made)
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def same(left: list[bs.ScoreInputs], right: list[bs.ScoreInputs]) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name).cpu())
        for a, b in zip(left, right, strict=True)
        for name in ("weight", "exp_avg_sq")
    )


def test_a_capturable_step_prunes_again_and_again(cuda: Any) -> None:
    plain, there = prepared(cuda)
    step = bs.CapturableStep(there, mask_optimizer_state=True)
    step.run()
    assert cuda.reads == 0 and same(plain, there) and step.masks.sparsity() == 0.0
    for sparsity in (0.25, 0.5, 0.5, 0.75):
        step.set_budget(sparsity=sparsity)
        step.run()
        with cuda.on_cpu():
            masks = bs.make_masks(plain, sparsity=sparsity)
            expected = bs.prune_(plain, sparsity=sparsity, mask_optimizer_state=True)
            for item, mask in zip(plain, masks, strict=True):
                item.mask = mask
        event = step.read()
        assert same(plain, there)
        keys = ("achieved_sparsity", "threshold", "k", "pruned", "churn", "per_tensor")
        assert all(getattr(event, key) == getattr(expected, key) for key in keys)
        assert [m.to_host().tolist() for m in step.masks] == [m.words.tolist() for m in masks]
    dead = ~step.masks[2].bool()
    there[2].weight[dead] = 3.0
    step.hold()
    assert same(plain, there)


def test_a_capturable_step_that_finds_nan_changes_nothing(cuda: Any) -> None:
    _, there = prepared(cuda)
    step = bs.CapturableStep(there)
    step.set_budget(k=1000)
    step.run()
    masks = [mask.to_host().tolist() for mask in step.masks]
    live = int(step.masks["layer1"].bool().nonzero()[0])
    there[1].weight[live] = torch.nan
    before = [item.weight.cpu().clone() for item in there]
    step.set_budget(k=2000)
    step.run()
    with pytest.raises(bs.NonFiniteScoreError, match=f"'layer1' at flat index {live};"):
        step.read()
    assert [mask.to_host().tolist() for mask in step.masks] == masks
    after = [item.weight.cpu() for item in there]
    assert all(torch.equal(a.nan_to_num(9.0), b.nan_to_num(9.0)) for a, b in zip(after, before, strict=True))
    there[1].weight[live] = 0.5
    step.run()
    assert step.read().pruned == 2000


def test_a_capturable_step_starts_from_given_masks(cuda: Any) -> None:
    _, there = prepared(cuda)
    there[2].mask = cuda.put(torch.arange(4097) % 2 == 0)
    step = bs.CapturableStep(there, scorer="magnitude")
    step.set_budget(sparsity=0.5)
    step.run()
    event = step.read()
    assert event.pruned == event.k == 2066 and event.churn == 2066 - 2048
    assert not step.masks["layer2"].bool().cpu()[1::2].any()


STEPS: list[dict[str, Any]] = [
    {"scope": "tensor"},
    {"scope": "tensor", "distribution": "erk", "selector": "histogram"},
    {"scope": "tensor", "distribution": "layer_adaptive", "selector": bs.Sampling(0.5)},
    {"scope": "row", "rounding": "floor"},
    {"scope": bs.Row(), "distribution": "erk"},
    {"scope": "2:4"},
    {"scope": "3:8", "distribution": "layer_adaptive", "remainder": "keep"},
    {"max_tensor_sparsity": 0.7},
    {"max_tensor_sparsity": 0.6, "selector": "streaming", "ties": "below"},
    {"tensor_sparsity": {"layer1": (0.3, 0.5), "layer2": (0.0, 0.75)}, "selector": "kthvalue"},
]


@pytest.mark.parametrize("options", STEPS, ids=str)
def test_a_capturable_step_of_every_scope(cuda: Any, options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(4)
    plain = []
    for index, shape in enumerate(((8, 8), (33, 16), (40, 96, 3), (2, 24))):
        w, v = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
        w[0, ::3] = 0.5
        plain.append(bs.ScoreInputs(w * (1 + index % 3), exp_avg_sq=v, name=f"layer{index}"))
    there = [
        bs.ScoreInputs(cuda.put(i.weight), exp_avg_sq=cuda.put(i.exp_avg_sq), name=i.name) for i in plain
    ]
    step = bs.CapturableStep(there, **options)
    for sparsity in (0.3, 0.3, 0.375, 0.5):
        step.set_budget(sparsity=sparsity)
        step.run()
        with cuda.on_cpu():
            masks = bs.make_masks(plain, sparsity=sparsity, **options)
            bs.apply_masks_(plain, masks)
            for item, mask in zip(plain, masks, strict=True):
                item.mask = mask
        assert [mask.to_host().tolist() for mask in step.masks] == [mask.words.tolist() for mask in masks]
        event = step.read()
        assert facts(event) | {"requested_sparsity": sparsity} == facts(masks.event)
        assert event.requested_sparsity == event.k / event.total
        assert same(plain, there)


def test_a_capturable_step_finds_a_budget_that_ranges_do_not_allow(cuda: Any) -> None:
    plain, there = prepared(cuda)
    step = bs.CapturableStep(there, tensor_sparsity={"layer2": (0.5, 0.75)})
    for sparsity in (0.2, 0.9):
        step.set_budget(sparsity=sparsity)
        step.run()
        with pytest.raises(bs.ArgumentError, match=r"the ranges allow 2049 \(0\.49.*\) to 3106"):
            step.read()
        assert same(plain, there) and step.masks.sparsity() == 0.0
    step.set_budget(sparsity=0.6)
    step.run()
    assert step.read().pruned == round(0.6 * 4131)


def test_a_capturable_step_says_what_it_cannot_take(host_cuda: Any) -> None:
    plain, there = prepared(host_cuda)
    with host_cuda.on_cpu(), pytest.raises(bs.DeviceError, match="on the CPU; a CapturableStep"):
        bs.CapturableStep(plain)
    for inputs in (
        bs.ScoreInputs(torch.ones(3, 8)[:, ::2]),
        bs.ScoreInputs(torch.ones(3, 4).t(), exp_avg_sq=torch.ones(4, 3)),
    ):
        with pytest.raises(bs.LayoutError, match="in other memory than its weight"):
            bs.CapturableStep(inputs, scorer="magnitude" if inputs.exp_avg_sq is None else "bitter7")
    small = torch.ones(10, 20)[:, ::2]  # hidden behind a large mask
    large = torch.ones(64, 100)
    keep = bs.Mask.from_bool(torch.ones(64, 100, dtype=torch.bool))
    both = [bs.ScoreInputs(large, mask=keep), bs.ScoreInputs(small)]
    with pytest.raises(bs.LayoutError, match="in other memory than its weight"):
        bs.CapturableStep(both, scorer="magnitude")
    for options, error in (
        ({"distribution": "erk"}, bs.ArgumentError),
        ({"scope": "tensor", "max_tensor_sparsity": 0.5}, bs.ArgumentError),
        ({"scope": "row", "ties": "below"}, bs.ArgumentError),
        ({"selector": "sampling", "tensor_sparsity": {"*": 0.5}}, bs.ArgumentError),
        ({"tensor_sparsity": {"nobody": 0.5}}, bs.ArgumentError),
        ({"scope": "2:4"}, bs.ShapeError),
    ):
        with pytest.raises(error):
            bs.CapturableStep(there, **options)
    by_groups = bs.CapturableStep(there[1:2], scope=bs.NofM(3, 4, remainder="keep"))
    with pytest.raises(bs.ArgumentError, match="more than 1 - N/M"):
        by_groups.set_budget(sparsity=0.5)
    by_groups.set_budget()
    by_groups.run()
    assert by_groups.read().pruned == 8
    step = bs.CapturableStep(there)
    for budget in ({"k": 4132}, {"k": -1}, {"sparsity": 2.0}, {}, {"k": 1, "sparsity": 0.1}, {"k": 0.5}):
        with pytest.raises(bs.ArgumentError):
            step.set_budget(**budget)
    host_cuda.capturing = True
    with pytest.raises(bs.Error, match="CapturableStep"):
        bs.prune_(there, k=3)
    step.run()


# ---- only on a GPU ----


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    from bittersweet.tensors import devices
    from cuda_support import DeviceRuntime

    monkeypatch.setattr(devices, "runtime", DeviceRuntime())
    return devices.runtime


@pytest.mark.gpu
def test_a_captured_step_replays_with_other_budgets(gpu: Any) -> None:
    plain, there = prepared(gpu)
    step = bs.CapturableStep(there)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step.run()  # warm
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step.run()
    for number in range(1, 11):
        step.set_budget(sparsity=number / 12)
        graph.replay()
        with gpu.on_cpu():
            masks = bs.make_masks(plain, sparsity=number / 12)
            bs.apply_masks_(plain, masks)
            for item, mask in zip(plain, masks, strict=True):
                item.mask = mask
        assert step.read().pruned == masks.event.pruned and same(plain, there)


@pytest.mark.gpu
def test_torch_sees_no_synchronisation(gpu: Any) -> None:
    model = gpu.put(mlp())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, capturable=True)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR, sync=False)
    step = bs.CapturableStep(prepared(gpu)[1])
    train(model, optimizer, pruner, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3, 12):
            pruner.step()
            step.set_budget(k=number)
            step.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [event.step for event in pruner.history] == [2, 6, 10]


@pytest.mark.gpu
def test_work_runs_on_the_current_stream(gpu: Any) -> None:
    weight, other = torch.randn(1 << 22, device="cuda"), torch.cuda.Stream()
    expected = weight.clone()
    bs.prune_(bs.ScoreInputs(expected), sparsity=0.5, scorer="magnitude")
    late = torch.zeros_like(weight)
    torch.cuda.synchronize()
    with torch.cuda.stream(other):
        torch.cuda._sleep(100_000_000)
        late.copy_(weight)
        event = bs.prune_(bs.ScoreInputs(late), sparsity=0.5, scorer="magnitude", sync=False)
    assert event.pruned == 1 << 21
    torch.cuda.current_stream().wait_stream(other)
    assert torch.equal(late, expected)


@pytest.mark.gpu
def test_mixed_devices_on_a_gpu(gpu: Any) -> None:
    weight = torch.ones(8, device="cuda")
    with pytest.raises(
        bs.DeviceError, match=r"exp_avg_sq of 'tensor0' is on the CPU and weight .* on cuda:0"
    ):
        bs.make_masks(bs.ScoreInputs(weight, exp_avg_sq=torch.ones(8)), sparsity=0.5)


@pytest.mark.parametrize("regrow", [bs.RigL(0.5), bs.SET(0.5)], ids=["RigL", "SET"])
def test_a_sparse_start_and_regrowth_are_those_of_the_cpu(cuda: Any, regrow: Any) -> None:
    schedule = bs.ConstantSparsity(0.8, 2, 8, 2)
    runs = []
    for place in (cuda.on_cpu, nullcontext):
        with place():
            model = mlp() if place is cuda.on_cpu else cuda.put(mlp())
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=schedule, regrow=regrow)
            pruner.start()
            torch.manual_seed(3)
            for _ in range(8):
                for parameter in model.parameters():
                    parameter.grad = torch.randn(parameter.shape).to(parameter)
                optimizer.step()
                pruner.step()
            masks = {name: mask.cpu().clone() for name, mask in pruner.masks.items()}
            runs.append((masks, [facts(event) for event in pruner.history]))
    assert runs[0][1] == runs[1][1] and len(runs[0][1]) == 5 and runs[0][1][1]["grown"]
    assert all(torch.equal(mask, runs[1][0][name]) for name, mask in runs[0][0].items())
