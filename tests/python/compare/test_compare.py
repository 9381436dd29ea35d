"""The comparison: its arithmetic against values worked by hand, and the command as users run it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.compare import catalogue, cli, histories, summary, tables
from bittersweet.demo.plan import DemoError

torch = pytest.importorskip("torch")

from bittersweet.compare import calibration, oneshot, runs, training  # noqa: E402
from bittersweet.demo.plan import Arm, Plan  # noqa: E402
from bittersweet.demo.progress import Progress  # noqa: E402
from bittersweet.demo.text import Corpus, load_corpus  # noqa: E402
from bittersweet.demo.train import ArmResult, Data, Trainer, spaced_windows  # noqa: E402

LEVELS = ("0.5", "0.75")
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text that a model of bytes can learn something from."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    words = ["prune", "keep", "weight", "mask", "score", "layer"]
    lines = (f"{words[i % 6]} {words[i * i % 5]} {i % 17}\n" for i in range(3000))
    file.write_text("".join(lines), encoding="ascii")
    return file


@pytest.fixture(scope="module")
def small(text: Path) -> tuple[Plan, Corpus, bytes]:
    plan = cli._plan(options("--quick"))
    return (plan, *calibration.hold_back(load_corpus(str(text))))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before, own = torch.get_num_threads(), bs.get_num_threads()
    yield
    torch.set_num_threads(before)
    bs.set_num_threads(own)


def options(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def compare(*arguments: object) -> tuple[int, str, str]:
    """Runs `python -m bittersweet compare` in a new process; returns exit status, output and complaints."""
    command = [sys.executable, "-m", "bittersweet", "compare", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600, check=False)
    return done.returncode, done.stdout, done.stderr


def quick(text: Path, out: Path) -> tuple[Any, str]:
    """A quick run of every scorer: its document and what it printed."""
    status, printed, complaints = compare(
        *("--quick", "--text", text, "--out", out, "--threads", 1, "--sparsity", *LEVELS)
    )
    assert status == 0, complaints
    return json.loads((out / "comparison.json").read_text(encoding="utf-8")), printed


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, str]:
    out = tmp_path_factory.mktemp("out") / "results"
    return (out, *quick(text, out))


def numbers(value: Any) -> Iterator[float]:
    """Every number in a document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


# Arithmetic, against values worked by hand.


def bits(text: str) -> Any:
    return np.array([character == "1" for character in text], dtype=bool)


@pytest.mark.parametrize(
    ("first", "second", "index"),
    [
        ("1100", "1100", 1.0),
        ("1100", "0011", 0.0),
        ("1110", "0111", 0.5),
        ("1000", "1111", 0.25),
        ("0000", "0000", 1.0),
        ("0000", "0100", 0.0),
        ("", "", 1.0),
    ],
)
def test_jaccard(first: str, second: str, index: float) -> None:
    assert oneshot.jaccard(bits(first), bits(second)) == index
    assert oneshot.jaccard(bits(second), bits(first)) == index


def test_overlaps_are_of_every_ordered_pair() -> None:
    kept = {"a": bits("1110"), "b": bits("0111"), "c": bits("1110")}
    found = {(first, second): value for first, second, value in oneshot.overlaps(kept)}
    assert len(found) == 9
    assert found["a", "b"] == found["b", "a"] == found["b", "c"] == 0.5
    assert found["a", "a"] == found["a", "c"] == 1.0


def one_shot_result(seed: int, scorer: str, loss: float, tied: float | None = None) -> oneshot.OneShotResult:
    return oneshot.OneShotResult(seed, scorer, "global", 0.5, 0.5, tied, loss)


def test_summary_of_one_shot() -> None:
    results = [
        one_shot_result(0, "a", 2.0, 0.5),
        one_shot_result(0, "b", 5.0),
        one_shot_result(1, "a", 4.0, 1.0),
    ]
    first, second = summary.one_shot(results, {0: 1.0, 1: 2.0})
    assert (first["scorer"], first["scope"], first["sparsity"], first["seeds"]) == ("a", "global", 0.5, 2)
    assert first["achieved_at_or_below"] == 0.75
    loss = first["held_out_loss"]
    assert (loss["mean"], loss["low"], loss["high"]) == (3.0, 2.0, 4.0)
    assert loss["deviation"] == pytest.approx(math.sqrt(2.0))
    assert first["difference_to_dense"]["mean"] == 1.5  # 2 - 1 and 4 - 2: within each seed
    assert first["difference_to_dense"]["deviation"] == pytest.approx(math.sqrt(0.5))
    assert second["scorer"] == "b" and second["seeds"] == 1
    assert second["held_out_loss"]["deviation"] is None and second["achieved_at_or_below"] is None


def test_summary_of_training() -> None:
    made = [
        ArmResult(Arm("a", 0.9), seed, curve=[(1, 9.0), (2, loss)], eligible=10, pruned=9)
        for seed, loss in ((0, 3.0), (1, 3.5))
    ]
    (row,) = summary.training(made, {0: 2.0, 1: 3.0})
    assert (row["scorer"], row["sparsity"], row["seeds"], row["achieved"]) == ("a", 0.9, 2, 0.9)
    assert row["held_out_loss"]["mean"] == 3.25
    assert (row["difference_to_dense"]["low"], row["difference_to_dense"]["high"]) == (0.5, 1.0)


def test_summary_of_overlap() -> None:
    values = {("a", "a"): [1.0, 1.0], ("a", "b"): [0.2, 0.4], ("b", "a"): [0.2, 0.4], ("b", "b"): [1.0, 1.0]}
    found = summary.overlap(values)
    assert found["scorers"] == ["a", "b"]
    assert found["mean"] == [[1.0, pytest.approx(0.3)], [pytest.approx(0.3), 1.0]]
    assert found["low"][0][1] == 0.2 and found["high"][1][0] == 0.4


def hand_made_document() -> dict[str, Any]:
    def loss(mean: float) -> dict[str, Any]:
        return {"mean": mean, "deviation": 0.5, "low": mean - 0.5, "high": mean + 0.5}

    def row(scorer: str, scope: str, mean: float, tied: float | None = None) -> dict[str, Any]:
        common = {"scorer": scorer, "scope": scope, "sparsity": 0.5, "seeds": 2, "achieved": 0.5}
        losses = {"held_out_loss": loss(mean), "difference_to_dense": loss(mean - 1)}
        return {**common, "achieved_at_or_below": tied, **losses}

    def scorer(name: str, aliases: list[str], reason: str | None) -> dict[str, Any]:
        left_out = {"one_shot": reason, "training": None}
        return {"name": name, "aliases": aliases, "training_scope": "global", "left_out": left_out}

    run = {
        "command": "python x|y",
        "date": "2000-01-01",
        "cpu": "C",
        "threads": 1,
        "seconds": 9.6,
        "seeds": 2,
    }
    run |= {"bittersweet": "1", "torch": "2", "python": "3", "parameters": 12345, "eligible": 1000}
    plan = {"layers": 1, "width": 8, "steps": 20, "batch": 4, "context": 16}
    return {
        "run": {**run, "finished": True},
        "plan": {**plan, "mask_events": 10, "begin_step": 5, "ramp_end": 15},
        "text": {"source": "nothing", "unigram_loss": 3.14159},
        "scorers": [scorer("a", ["a2", "a3"], None), scorer("b", [], None), scorer("c", [], "it will not")],
        "dense": {"held_out_loss": loss(1.0)},
        "one_shot": {
            "levels": [0.5],
            "summary": [row("a", "global", 3.0, 0.99), row("a", "2:4", 4.0), row("b", "global", 2.0, 0.5)],
        },
        "overlap": {
            "sparsity": 0.5,
            "by_chance": 1 / 3,
            "scorers": ["a", "b"],
            "mean": [[1.0, 0.25], [0.25, 1.0]],
        },
        "training": {"sparsity": 0.5, "summary": []},
        "notes": ["careful"],
    }


def test_tables_of_a_document_made_by_hand() -> None:
    document = hand_made_document()
    one_shot, overlap = tables.sections(document)  # nothing was trained, so that there is no third
    assert one_shot.rows == [
        ["scorer", "global", "2:4"],
        ["b", "2.0000 ± 0.5000", "-"],
        ["a", "3.0000 ± 0.5000", "4.0000 ± 0.5000"],
    ]
    assert overlap.rows == [["scorer", "1", "2"], ["1 a", "100", "25"], ["2 b", "25", "100"]]
    assert "kept" in overlap.note and "33 %" in overlap.note
    lines = "\n".join(tables.remarks(document))
    assert "a at 50 %: 99 %" in lines and "b at 50 %" not in lines
    assert "Left out of one-shot: c: it will not." in lines
    assert "a2 and a3 as a" in lines and "careful" in lines
    head = tables.circumstances(document)
    assert "12,345 parameters" in head and "Dense: 1.0000 ± 0.5000" in head and "3.142" in head
    assert "Interrupted" not in head
    document["run"]["finished"] = False
    assert "Interrupted" in tables.circumstances(document)


def test_a_loss_that_is_not_a_number_comes_last() -> None:
    document = hand_made_document()
    document["one_shot"]["summary"][2]["held_out_loss"] |= {"mean": math.nan}
    assert [row[0] for row in tables.sections(document)[0].rows] == ["scorer", "a", "b"]


def test_a_terminal_gets_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "150")
    shown = []
    for forced in ("1", ""):
        monkeypatch.setenv("FORCE_COLOR", forced)
        tables.show(hand_made_document())
        shown.append(capsys.readouterr().out)
    by_rich, plain = shown
    assert "━" in by_rich and "━" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")  # no table is cut off where there is no room for it
    tables.show(hand_made_document())
    assert "2.0000 ± 0.5000                -" in capsys.readouterr().out
    for words in ("2.0000 ± 0.5000", "Jaccard index", "2000-01-01", "careful"):
        assert words in by_rich and words in plain


def test_markdown_escapes_and_aligns() -> None:
    written = tables.markdown(hand_made_document())
    assert "| scorer | global | 2:4 |\n| --- | ---: | ---: |\n| b | 2.0000 ± 0.5000 | - |" in written
    assert tables._markdown_table([["a|b"], ["c"]]) == "| a\\|b |\n| --- |\n| c |"


# Which scorers take part.


def test_every_name_of_the_library_is_accounted_for() -> None:
    found = catalogue.entries(None, {})
    names = [name for entry in found for name in (entry.name, *entry.aliases)]
    assert sorted(names) == sorted([*bs.scorers(), "RigL", "SET"])
    left_out = {entry.name for entry in found if entry.not_one_shot}
    assert {"identity", "bitter4", "RigL", "SET"} <= left_out
    assert {"wanda", "gradient", "taylor", "random", "bitter7"}.isdisjoint(left_out)
    by_name = {entry.name: entry for entry in found}
    assert by_name["magnitude"].aliases == ("bitter1", "bitter2")
    assert by_name["bitter4"].not_in_training is None
    assert by_name["RigL"].not_in_training is by_name["SET"].not_in_training is None
    assert by_name["bitter4"].scope == by_name["RigL"].scope == "tensor" and by_name["wanda"].scope == "row"


def test_names_are_chosen_once_and_in_the_library_s_order() -> None:
    found = catalogue.entries(["bitter9", "magnitude", "bitter1", "bitter8"], {})
    assert [entry.name for entry in found] == ["magnitude", "bitter8"]
    assert [entry.name for entry in catalogue.entries(["SET", "bitter7"], {})] == ["bitter7", "SET"]


def test_a_read_that_nothing_records_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"name": "later", "alias_of": None, "formula": "?", "reads": ["weight", "memory"]}
    monkeypatch.setattr(catalogue, "scorer_rows", lambda: {"later": row, "now": {**row, "reads": []}})
    later, now = catalogue.entries(None, {})[:2]
    assert "memory" in str(later.not_one_shot) and later.not_one_shot == later.not_in_training
    assert now.not_one_shot is None
    assert catalogue.entries(["later"], {"later": object()})[0].not_one_shot is None
    with pytest.raises(DemoError, match="nothing is left to compare: later it reads memory"):
        catalogue.entries(["later"], {})


# The parts, on a tiny model.


def test_calibration_text_is_neither_trained_on_nor_evaluated() -> None:
    corpus = Corpus(bytes(range(200)), b"held", "numbers", "hash")
    kept, held_back = calibration.hold_back(corpus)
    assert kept.train + held_back == corpus.train and len(held_back) == 10
    assert kept.held_out == corpus.held_out


def test_input_norms_are_those_of_numpy() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5, bias=False), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    batches = [torch.randn(4, 6, 3), torch.randn(1, 6, 3)]
    found = calibration.input_norms(model, batches)
    x = torch.cat([batch.flatten(0, 1) for batch in batches]).double().numpy()
    hidden = np.maximum(x @ model[0].weight.detach().double().numpy().T, 0.0)
    for name, features in (("0.weight", x), ("2.weight", hidden)):
        expected = np.sqrt((features**2).mean(0))
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-5)


def test_gradients_are_of_the_mean_loss(small: tuple[Plan, Corpus, bytes]) -> None:
    plan, corpus, held_back = small
    model = Trainer(plan, Data(corpus, plan, 0), 0).model
    windows = spaced_windows(held_back, 21, plan.context)  # two batches of unequal size
    found = calibration.gradients(model, windows)
    assert all(parameter.grad is None for parameter in model.parameters())
    model.loss(windows).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_one_shot_leaves_the_model_as_it_was(small: tuple[Plan, Corpus, bytes]) -> None:
    plan, corpus, _ = small
    trainer = Trainer(plan, Data(corpus, plan, 0), 0)
    for step in range(1, 4):
        trainer.train_step(step)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    scored = catalogue.entries(["magnitude", "random", "wanda"], {})
    progress = Progress("", 10**6, lambda _: None)
    ones = {name: torch.ones(p.shape[-1]) for name, p in trainer.model.named_parameters() if p.ndim == 2}
    ones.pop("blocks.0.up.weight")
    with pytest.raises(KeyError):  # a norm that is missing is never replaced
        oneshot.score_frozen(trainer, scored, [0.5], 0, {"input_norm": ones}, {}, progress)
    ones["blocks.0.up.weight"] = torch.ones(plan.width)
    found = oneshot.score_frozen(trainer, scored, [0.5, 1 / 3], 0, {"input_norm": ones}, {}, progress)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert len(found.results) == 3 * 7 and not found.failures
    losses = {(one.scorer, one.scope, one.sparsity): one.held_out_loss for one in found.results}
    for scope in (*oneshot.SCOPES, "2:4"):  # under norms of 1 WANDA is magnitude
        assert losses["wanda", scope, 0.5] == losses["magnitude", scope, 0.5]
        assert losses["random", scope, 0.5] != losses["magnitude", scope, 0.5]
    np.testing.assert_array_equal(found.kept["wanda"], found.kept["magnitude"])
    weights = [before[f"blocks.0.{name}.weight"].flatten() for name in ("qkv", "proj", "up", "down")]
    scores = torch.cat(weights).abs().double().numpy()
    assert scores[found.kept["magnitude"]].min() >= scores[~found.kept["magnitude"]].max()
    assert np.count_nonzero(found.kept["magnitude"]) == scores.size // 2


def test_what_the_library_refuses_is_recorded(small: tuple[Plan, Corpus, bytes]) -> None:
    plan, corpus, _ = small
    trainer = Trainer(plan, Data(corpus, plan, 0), 0)  # no step yet: no optimizer state
    scored = catalogue.entries(["magnitude", "bitter7"], {})
    found = oneshot.score_frozen(trainer, scored, [0.5], 0, {}, {}, Progress("", 10**6, lambda _: None))
    assert {one.scorer for one in found.results} == {"magnitude"}
    assert "exp_avg_sq" in found.failures["bitter7"]


def test_histories_see_every_step_and_complete_the_inputs(
    small: tuple[Plan, Corpus, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, corpus, _ = small

    class Recorder:
        def __init__(self, model: Any, optimizer: Any) -> None:
            self.steps = 0

        def on_step(self, model: Any, optimizer: Any) -> None:
            self.steps += 1
            assert all(p.grad is not None for p in model.parameters())
            assert all(optimizer.state[p]["step"] == self.steps for p in model.parameters())

        def complete(self, inputs: bs.ScoreInputs) -> None:
            assert self.steps == plan.steps
            inputs.modifier = 0.0 if "down" in str(inputs.name) else 1.0

    monkeypatch.setitem(histories.MAKERS, "magnitude", Recorder)
    scored = catalogue.entries(["magnitude"], histories.MAKERS)
    request = runs.Request(plan, scored, [0.1], 0.1, 1, 8)
    found = runs.Findings()
    runs.compare(request, corpus, found, lambda _: None, saved=lambda: None)
    assert not found.failures and len(found.one_shot) == 3
    frozen = Recorder(None, None)
    frozen.steps = plan.steps
    trainer = Trainer(plan, Data(corpus, plan, 0), 0)
    kept = oneshot.score_frozen(
        *(trainer, scored, [0.1], 0, {}, {"magnitude": frozen}, Progress("", 10**6, lambda _: None))
    ).kept["magnitude"]
    down = 4 * plan.width * plan.width  # the last tensor; its scores are 0, so that it alone is pruned
    assert kept[:-down].all() and np.count_nonzero(~kept) == math.floor(0.1 * kept.size + 0.5)


def test_wanda_in_training_prunes_rows_and_holds_them(small: tuple[Plan, Corpus, bytes]) -> None:
    plan, corpus, held_back = small
    trainer = Trainer(plan, Data(corpus, plan, 0), 0)
    schedule = bs.PolynomialDecay(0.0, 0.75, begin_step=2, end_step=6, frequency=2)
    windows = spaced_windows(held_back, 8, plan.context)
    pruner = training.WandaPruner(trainer.model, trainer.optimizer, schedule, windows)
    parameters = dict(trainer.model.named_parameters())
    before: dict[str, Any] = {}
    for step in range(1, 9):
        trainer.train_step(step)
        weights = {name: p.detach().clone() for name, p in parameters.items()}
        event = pruner.step()
        assert (event is not None) == (step in (2, 4, 6))
        for name, keep in pruner.masks.items():
            assert not torch.count_nonzero(parameters[name].detach()[~keep])
            state = trainer.optimizer.state[parameters[name]]
            assert not torch.count_nonzero(state["exp_avg"][~keep])
            assert torch.equal(parameters[name].detach()[keep], weights[name][keep])
            assert not torch.any(keep & ~before.get(name, keep))  # what is pruned stays pruned
            if step >= 6:
                assert torch.all((~keep).sum(1) == math.floor(0.75 * keep.shape[1] + 0.5))
        before = dict(pruner.masks)


# The command.


@pytest.mark.slow
def test_files(finished: tuple[Path, Any, str]) -> None:
    out, _, printed = finished
    names = ["comparison.json", "comparison.md", "one_shot.png", "overlap.png", "training.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names:
        assert str(out / name) in printed
        assert not name.endswith(".png") or (out / name).read_bytes().startswith(PNG)
    assert "left" in printed and "100 %" in printed


@pytest.mark.slow
def test_document_is_complete(finished: tuple[Path, Any, str]) -> None:
    _, document, _ = finished
    run = document["run"]
    assert document["format"] == 1 and run["finished"] and run["quick"] and run["seeds"] == cli.QUICK_SEEDS
    for key in ("command", "date", "cpu", "threads", "torch", "bittersweet", "python", "build", "seconds"):
        assert run[key]
    assert "compare --quick" in run["command"]
    scopes = [(scope, float(level)) for level in LEVELS for scope in oneshot.SCOPES] + [("2:4", 0.5)]
    for part in ("one_shot", "training"):
        expected = {one["name"] for one in document["scorers"] if one["left_out"][part] is None}
        assert {row["scorer"] for row in document[part]["summary"]} == expected
        assert len(document[part]["runs"]) == 2 * len(expected) * (len(scopes) if part == "one_shot" else 1)
        assert all(row["seeds"] == 2 for row in document[part]["summary"])
    for name in {row["scorer"] for row in document["one_shot"]["summary"]}:
        rows = [row for row in document["one_shot"]["summary"] if row["scorer"] == name]
        assert sorted((row["scope"], row["sparsity"]) for row in rows) == sorted(scopes)
    named = {name for one in document["scorers"] for name in (one["name"], *one["aliases"])}
    assert named == {*bs.scorers(), *catalogue.GROWING}
    assert all(math.isfinite(number) for number in numbers(document))


@pytest.mark.slow
def test_numbers_agree_with_each_other(finished: tuple[Path, Any, str]) -> None:
    out, document, printed = finished
    dense = {run["seed"]: run["held_out_loss"] for run in document["dense"]["runs"]}
    for row in document["training"]["summary"]:
        losses = {
            run["seed"]: run["held_out_loss"]
            for run in document["training"]["runs"]
            if run["scorer"] == row["scorer"]
        }
        assert row["held_out_loss"]["mean"] == pytest.approx(statistics.fmean(losses.values()))
        gaps = [losses[seed] - dense[seed] for seed in (0, 1)]
        assert row["difference_to_dense"]["deviation"] == pytest.approx(statistics.stdev(gaps))
        cell = f"{row['held_out_loss']['mean']:.4f} ± {row['held_out_loss']['deviation']:.4f}"
        assert cell in printed and cell in (out / "comparison.md").read_text(encoding="utf-8")
    overlap = document["overlap"]
    matrix = np.array(overlap["mean"])
    assert overlap["sets"] == "kept" and overlap["sparsity"] == 0.5
    assert np.array_equal(matrix, matrix.T) and np.all(np.diag(matrix) == 1.0)
    names = overlap["scorers"]
    assert matrix[names.index("bitter7"), names.index("bitter8")] > 0.999  # equal but for rounding
    assert matrix[names.index("magnitude"), names.index("random")] == pytest.approx(1 / 3, abs=0.02)
    for run in document["one_shot"]["runs"]:
        assert run["achieved"] == pytest.approx(
            run["sparsity"], abs=1e-4 if run["scope"] == "global" else 0.02
        )


@pytest.mark.slow
def test_every_run_of_a_seed_starts_alike(finished: tuple[Path, Any, str]) -> None:
    _, document, _ = finished
    begin = document["plan"]["begin_step"]
    for seed in (0, 1):
        every = [*document["dense"]["runs"], *document["training"]["runs"]]
        of_seed = [run for run in every if run["seed"] == seed and run["scorer"] not in catalogue.GROWING]
        curves = [run["held_out_curve"] for run in of_seed]
        shared = [[point for point in curve if point[0] <= begin] for curve in curves]
        assert shared[0] and all(part == shared[0] for part in shared)


@pytest.mark.slow
def test_two_runs_agree(finished: tuple[Path, Any, str], text: Path, tmp_path: Path) -> None:
    again, _ = quick(text, tmp_path / "again")

    def measured(document: Any) -> Any:
        times = ("step_seconds", "event_seconds", "hold_seconds")
        for part in ("dense", "training"):
            for run in document[part]["runs"]:
                for key in times:
                    run.pop(key, None)
        return {key: document[key] for key in ("dense", "one_shot", "overlap", "training", "scorers")}

    assert measured(again) == measured(json.loads(json.dumps(finished[1])))


@pytest.mark.usefixtures("one_thread")
def test_an_interruption_leaves_what_was_finished(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = runs.train_pruned, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(runs, "train_pruned", interrupted)
    arguments = ("--quick", "--threads", 1, "--text", text, "--out", tmp_path, "--sparsity", 0.5)
    assert cli.run(options(*arguments, "--scorer", "magnitude", "bitter7")) == 130
    assert "what was finished is written" in capsys.readouterr().err
    document = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert not document["run"]["finished"]
    assert [run["scorer"] for run in document["training"]["runs"]] == ["magnitude"]
    assert len(document["one_shot"]["runs"]) == 2 * 4
    assert (tmp_path / "training.png").read_bytes().startswith(PNG)
    assert "Interrupted" in (tmp_path / "comparison.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--text", "no/such/file.txt"), ("--text no/such/file.txt", "cannot be read")),
        (("--sparsity", "1.5"), ("--sparsity 1.5", "between 0 and 1")),
        (("--sparsity", "0.5", "0"), ("--sparsity 0 ", "between 0 and 1")),
        (("--sparsity", "nan"), ("--sparsity nan", "between 0 and 1")),
        (("--train-sparsity", "-0.1"), ("--train-sparsity -0.1", "between 0 and 1")),
        (("--scorer", "magnitude", "bitter77"), ("--scorer bitter77", "choose from", "magnitude", "bitter9")),
        (("--scorer", "identity"), ("nothing is left to compare", "scores that the caller computed")),
        (("--steps", "19"), ("--steps 19", "or more")),
        (("--seeds", "0"), ("--seeds 0", "1 or more")),
        (("--threads", "0"), ("--threads 0", "1 or more")),
    ],
)
def test_wrong_requests(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(options("--out", tmp_path / "out", *arguments)) == 2
    printed, complaint = capsys.readouterr()
    assert printed == ""
    assert complaint.startswith("bittersweet compare: error: ") and complaint.count("\n") == 1
    assert all(word in complaint for word in words)


def test_out_cannot_be_made(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(options("--text", text, "--out", text)) == 2
    assert f"--out {text}" in capsys.readouterr().err


def test_wrong_request_in_a_process(tmp_path: Path) -> None:
    status, printed, complaint = compare("--sparsity", "80", "--out", tmp_path)
    assert (status, printed) == (2, "")
    assert complaint.startswith("bittersweet compare: error: --sparsity 80")


def test_without_torch(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name == "torch" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert cli.run(options("--text", text, "--out", tmp_path)) == 1
    assert "python -m pip install torch" in capsys.readouterr().err
