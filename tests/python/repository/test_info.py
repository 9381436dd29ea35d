"""The package itself: what importing it loads, what it exports, and what it says about itself."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest

PACKAGE = Path(bs.__file__).parent


def python(code: str, *arguments: str) -> str:
    """Runs code in a new interpreter that finds the same package."""
    path = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    command = [sys.executable, "-c", path + code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_import_loads_nothing_heavy() -> None:
    python(
        "import bittersweet\n"
        "for name in ('torch', 'numpy', 'matplotlib', 'tqdm', 'bittersweet._core'):\n"
        "    assert name not in sys.modules, name\n"
        "assert 'score' in dir(bittersweet)\n"
    )


def test_works_without_torch() -> None:
    python(
        "sys.modules['torch'] = None\n"
        "import bittersweet as bs, numpy as np\n"
        "w = np.arange(1, 9, dtype=np.float32)\n"
        "event = bs.prune_(bs.ScoreInputs(w), sparsity=0.5, scorer='magnitude')\n"
        "assert w.tolist() == [0, 0, 0, 0, 5, 6, 7, 8] and event.pruned == 4\n"
        "assert bs.make_masks(bs.ScoreInputs(w), k=1, scorer='magnitude').bool().dtype == bool\n"
        "assert bs.kth_value(w, 8) == 8 and bs.PolynomialDecay(0, 0.5, 0, 10)(10) == (True, 0.5)\n"
    )


def test_numpy_inputs_do_not_load_torch() -> None:
    python(
        "import bittersweet as bs, numpy as np\n"
        "bs.score(np.ones(3, np.float32), 'magnitude')\n"
        "bs.make_masks(bs.ScoreInputs(np.ones(3, np.float32)), k=1, scorer='magnitude').bool()\n"
        "assert 'torch' not in sys.modules\n"
    )


def test_every_exported_name_exists_and_is_documented() -> None:
    from bittersweet import _HOME

    assert set(bs.__all__) <= set(dir(bs))
    for name in {*bs.__all__, *_HOME}:
        value = getattr(bs, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
    assert callable(bs.scorers)
    assert callable(bs.selectors)
    assert callable(bs.score)
    with pytest.raises(AttributeError, match="no attribute 'scoring'"):
        bs.scoring  # noqa: B018


def test_star_import_shadows_nothing_of_torch_nor_of_python() -> None:
    """What is left out for that is public all the same."""
    import builtins

    import torch
    from bittersweet import _HOME
    from torch import nn

    for name in set(bs.__all__) - {"__version__"}:
        assert not any(hasattr(place, name) for place in (torch, nn, nn.functional, builtins)), name
    left_out = {
        "Gradient",
        "Identity",
        "Linear",
        "Shard",
        "Tensor",
        "Threshold",
        "get_num_threads",
        "set_num_threads",
        "threshold",
    }
    assert set(_HOME) - set(bs.__all__) == left_out
    assert bs.Linear is bs.LinearRamp


def test_version_and_build() -> None:
    info = bs.build_info()
    assert info["version"] == bs.__version__
    assert info["isa"] in info["isa_available"]
    assert {"compiler", "build_type", "threads", "cuda", "workspace_bytes"} <= info.keys()


def test_lists() -> None:
    assert bs.selectors() == ["exact", "histogram", "kthvalue", "sampling", "streaming"]
    assert len(bs.scorers()) == len(set(bs.scorers()))
    from bittersweet.options.scorers import Scorer

    objects = [value for name in dir(bs) if isinstance(value := getattr(bs, name), type)]
    assert set(bs.scorers()) == {cls.name for cls in objects if issubclass(cls, Scorer)}
    bs.scorers().clear()
    assert bs.scorers()


def test_threads(threads: None) -> None:
    bs.set_num_threads(1)
    assert bs.get_num_threads() == 1
    assert bs.build_info()["threads"] == 1


def test_typed_and_installable_paths() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert Path(bs.get_include()) == PACKAGE / "include"
    assert Path(bs.get_cmake_dir()) == PACKAGE / "lib" / "cmake" / "bittersweet"


def test_stub_matches_the_compiled_module() -> None:
    import ast

    from bittersweet import _core

    tree = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    functions |= {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(isinstance(item, ast.FunctionDef) for item in node.body)
    }
    compiled = {name for name in dir(_core) if callable(getattr(_core, name)) and not name.startswith("_")}
    assert functions == compiled
    values = {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    assert values <= set(dir(_core))
    rows = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def keys(name: str) -> set[str]:
        return {item.target.id for item in rows[name].body if isinstance(item, ast.AnnAssign)}  # type: ignore[union-attr]

    assert keys("ScorerRow") == set(_core.scorer_table()[0])


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_info_command(flags: list[str]) -> None:
    text = python("from bittersweet.__main__ import main; sys.exit(main())", "info", *flags)
    if flags:
        values = json.loads(text)
        assert values["version"] == bs.__version__
        assert values["scorers"] == bs.scorers()
        assert values["selectors"] == bs.selectors()
        assert values["isa"] in values["isa_available"]
        assert values["packages"]["numpy"]
    else:
        assert text.splitlines()[0].split() == ["version", bs.__version__]
        assert "bitter7" in text


def test_errors_of_commands_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bittersweet import info
    from bittersweet.__main__ import main

    def broken(*, as_json: bool) -> None:
        raise bs.DeviceError(f"no such device (as_json={as_json})")

    monkeypatch.setattr(info, "print_info", broken)
    assert main(["info"]) == 2
    assert capsys.readouterr().err == "bittersweet: no such device (as_json=False)\n"


def test_commands_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    from bittersweet.__main__ import main

    for arguments in ([], ["prune"], ["info", "--yaml"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "usage: python -m bittersweet" in capsys.readouterr().err


DIGEST = """
import hashlib, numpy as np, bittersweet as bs
rng = np.random.default_rng(0)
digest = hashlib.sha256()
n = 30_011
w, m, g = ((rng.choice((-1, 1), n) * 10.0 ** rng.uniform(-12, 6, n)).astype(np.float32) for _ in range(3))
v = (10.0 ** rng.uniform(-30, 4, n)).astype(np.float32)
w[:100], v[:50], m[20:80] = 0.0, 0.0, -0.0
for dtype in (np.float32, np.float16):
    with np.errstate(over="ignore", under="ignore"):
        arrays = [x.astype(dtype) for x in (w, m, v, g)]
    norm = np.abs(arrays[3]).astype(np.float32)
    for scorer in bs.scorers():
        inputs = bs.ScoreInputs(*arrays, norm, arrays[0], step=3, modifier=0.7)
        given = dict(zip(("exp_avg", "exp_avg_sq", "grad", "input_norm"), (*arrays[1:], norm)))
        scores = bs.score(arrays[0], scorer, scores=arrays[0], modifier=0.7, step=3, **given)
        digest.update(np.where(np.isnan(scores), np.float32(0), scores).tobytes())
        for selector in bs.selectors():
            masks = bs.make_masks(inputs, sparsity=0.6, scorer=scorer, selector=selector, nonfinite="keep")
            digest.update(masks.words[0].tobytes())
            digest.update(repr((masks.event.threshold, masks.event.count_below, masks.event.pruned)).encode())
    bs.apply_masks_(bs.ScoreInputs(*arrays), masks, roles=("weight", "exp_avg"))
    digest.update(arrays[0].tobytes() + arrays[1].tobytes())
print(bs.build_info()["isa"], digest.hexdigest())
"""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_instruction_set_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for isa in bs.build_info()["isa_available"]:
        monkeypatch.setenv("BITTERSWEET_CPU_ISA", isa)
        used, found[isa] = python(DIGEST).split()
        assert used == isa
    assert len(set(found.values())) == 1, found


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITTERSWEET_CPU_ISA", "z80")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        python("import bittersweet as bs; bs.score(__import__('numpy').ones(3, 'float32'), 'magnitude')")
    assert "z80" in caught.value.stderr


def test_engine_takes_no_more_threads_than_torch() -> None:
    code = (
        "import numpy, torch, bittersweet as bs; torch.set_num_threads(1);"
        "bs.threshold(bs.ScoreInputs(torch.ones(4)), k=1, scorer='magnitude'); a = bs.get_num_threads();"
        "bs.set_num_threads(2); torch.set_num_threads(1); print(a, bs.get_num_threads())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "BITTERSWEET_NUM_THREADS"}
    path = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    command = [sys.executable, "-c", path + code]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert found.split() == ["1", "2"]


def test_info_says_what_it_found_of_gpus(host_cuda: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from bittersweet import info

    assert info.collect()["gpus"] == [
        {
            "index": 0,
            "name": "Host GPU",
            "capability": "9.0",
            "verdict": "native code",
            "usable": True,
            "self_test": "passed",
        },
        {
            "index": 1,
            "name": "Old GPU",
            "capability": "3.5",
            "verdict": "unsupported: compute capability 3.5, and 7.5 or newer is needed",
            "usable": False,
            "self_test": None,
        },
    ]
    info.print_info(as_json=False)
    text = capsys.readouterr().out
    assert "0: Host GPU, compute capability 9.0: native code; self-test passed" in text
    assert "1: Old GPU, compute capability 3.5: unsupported" in text


def test_info_says_why_there_are_none(
    host_cuda: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bittersweet import info

    class NoDriver:
        CUDA_BUILT = True

        @staticmethod
        def cuda_devices() -> list[Any]:
            return []

    class Broken:
        CUDA_BUILT = True

        @staticmethod
        def cuda_devices() -> list[Any]:
            return [{"index": 0, "name": "X", "capability": "9.0", "verdict": "native code", "usable": True}]

        @staticmethod
        def cuda_self_test(device: int) -> str:
            raise bs.DeviceError(f"device {device} is lost")

    host_cuda.native = NoDriver
    info.print_info(as_json=False)
    assert "none: no NVIDIA driver answered" in capsys.readouterr().out
    monkeypatch.setattr(NoDriver, "CUDA_BUILT", False)
    info.print_info(as_json=False)
    assert "not looked for: this build has no CUDA engine" in capsys.readouterr().out
    host_cuda.native = Broken
    assert info.cuda_devices()[0]["self_test"] == "failed: device 0 is lost"


@pytest.mark.gpu
def test_every_gpu_that_is_usable_passes_its_self_test() -> None:
    from bittersweet import info

    found = info.cuda_devices()
    assert found and all(gpu["self_test"] == "passed" for gpu in found if gpu["usable"])
