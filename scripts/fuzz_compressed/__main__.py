"""Damages compressed files and the states of packed layers by the thousand, and reads them.

    python scripts/fuzz_compressed [--trials 5000] [--seed 0] [--first 0]

What a trial has changed, in up to three places, is either refused by one of Bittersweet's errors, with the
model as it was, or read as `plain_reader.py` reads it, bit for bit. Nothing else may happen: no other
exception, no crash, no wait of a minute, no gigabyte of memory. A trial depends on --seed and on its number
alone: --first N --trials 1 repeats it.

Under AddressSanitizer, with a compiled module in a folder of its own:

    cmake -S . -B build/asan-core -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBITTERSWEET_CUDA=off \\
        -DCMAKE_CXX_FLAGS=-fsanitize=address -DBITTERSWEET_BUILD_PYTHON=ON -DBITTERSWEET_BUILD_TESTS=OFF \\
        -Dpybind11_DIR="$(python -m pybind11 --cmakedir)"
    cmake --build build/asan-core --target _core
    LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libstdc++.so)" \\
        ASAN_OPTIONS=detect_leaks=0 python scripts/fuzz_compressed --core build/asan-core
"""

from __future__ import annotations

import argparse
import collections
import copy
import faulthandler
import importlib.util
import random
import resource
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import plain_reader
from damage import damaged_arrays, damaged_file

LONGEST_WAIT, MOST_MEMORY = 60, 1 << 30
SHAPES = ((1, 1), (17, 33), (8, 64), (3, 9), (0, 5), (5, 0), (33, 70))


class Fault(Exception):
    """What may not happen."""


def use_core(folder: Path) -> None:
    """Lends the compiled module in `folder` to the package that is imported."""
    found = sorted(folder.rglob("_core*.so"))
    if len(found) != 1:
        sys.exit(f"fuzz_compressed: {len(found)} compiled modules in {folder}; one is needed")
    spec = importlib.util.spec_from_file_location("bittersweet._core", found[0])
    assert spec is not None and spec.loader is not None
    module = sys.modules["bittersweet._core"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


class Files:
    """Valid files, and models that they fit."""

    def __init__(self, folder: Path) -> None:
        import bittersweet as bs
        import torch

        self.path, self.good = folder / "damaged.safetensors", list[tuple[bytes, Any]]()
        source, draw = folder / "good.safetensors", torch.Generator().manual_seed(0)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            state = {f"w{place}": any_bits(shape, dtype, draw) for place, shape in enumerate(SHAPES)}
            state |= {"b": torch.randn(3, generator=draw), "n": torch.tensor(7), "e": torch.zeros(0, 4)}
            state |= {"c": torch.ones(2, dtype=torch.complex64), "k": torch.tensor([True, False])}
            bs.sparse.save_compressed(state, source, min_sparsity=0.0)
            self.good.append((source.read_bytes(), None))
            model = small_model(dtype, draw)
            for packed in (True, False):
                bs.sparse.save_compressed(model if packed else model.state_dict(), source)
                fresh = small_model(dtype, draw)
                if packed:
                    bs.sparse.pack_(fresh)
                self.good.append((source.read_bytes(), fresh))

    def trial(self, draw: random.Random) -> str:
        """What happened, in a word. Raises Fault."""
        from bittersweet import sparse

        good, like = draw.choice(self.good)
        data = damaged_file(good, draw)
        self.path.write_bytes(data)
        expected = plain_reader.read(data)
        found = outcome(lambda: sparse.load_compressed(self.path))
        compare(expected, found)
        if like is None:
            return "refused" if isinstance(found, Exception) else "read"
        model = copy.deepcopy(like)
        before = bits_of(model.state_dict())
        layout = draw.choice(("auto", *plain_reader.LAYOUTS))
        loaded = outcome(lambda: sparse.load_compressed(self.path, model, layout=layout))
        if isinstance(loaded, Exception):
            if bits_of(model.state_dict()) != before:
                raise Fault(f"the model has changed, although: {loaded}")
            return "refused" if isinstance(found, Exception) else "refused by the model"
        if isinstance(found, Exception):
            raise Fault(f"loaded into a model what is refused without one: {found}")
        run(model)
        sparse.unpack_(model)
        for name, tensor in model.state_dict().items():
            if bits_of({0: tensor}) != bits_of({0: found[name].to(tensor.dtype)}):
                raise Fault(f"'{name}' differs in the model")
        return "loaded"


class States:
    """Packed layers, whose arrays are damaged."""

    def __init__(self) -> None:
        import torch
        from bittersweet import sparse

        draw = torch.Generator().manual_seed(1)
        self.good = []
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for rows, columns in (*SHAPES, (40, 300), (300, 20)):
                layer: Any = torch.nn.Linear(1, 1, bias=False)
                layer.weight = torch.nn.Parameter(any_bits((rows, columns), dtype, draw))
                self.good += [
                    sparse.SparseLinear.from_linear(layer, layout=name) for name in plain_reader.LAYOUTS
                ]

    def trial(self, draw: random.Random) -> str:
        layer = copy.deepcopy(draw.choice(self.good))
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        state = damaged_arrays({name: tensor.clone() for name, tensor in before.items()}, draw)
        try:
            layer.load_state_dict(state, strict=draw.random() < 0.5)
        except RuntimeError as error:
            if "Error(s) in loading state_dict" not in str(error):
                raise
            if bits_of(layer.state_dict()) != bits_of(before):
                raise Fault(f"the layer has changed, although: {error}") from None
            return "refused"
        held = layer.state_dict()
        for name, tensor in {**before, **state}.items():
            if bits_of({0: held[name]}) != bits_of({0: tensor.to(before[name].dtype)}):
                raise Fault(f"{name} is not what was loaded")
        shape = layer.out_features, layer.in_features
        size = layer.values.element_size()
        first, unpack = plain_reader.LAYOUTS[layer.layout]
        marks, offsets = (held[name].tolist() for name in (first, "offsets"))
        expected = unpack(marks, offsets, _bytes(held["values"]), size, *shape)
        if _bytes(layer.to_dense()) != expected:
            raise Fault("it unpacks to other bits")
        run(layer)
        return "loaded"


def any_bits(shape: tuple[int, int], dtype: Any, draw: Any) -> Any:
    """Any bits at all in a half of the places, zeros in the others."""
    import torch

    size = torch.int16 if dtype.itemsize == 2 else torch.int32
    raw = torch.randint(-(1 << (8 * dtype.itemsize - 1)), 1 << 14, shape, generator=draw, dtype=torch.int64)
    return (raw * (torch.rand(shape, generator=draw) < 0.5)).to(size).view(dtype)


def small_model(dtype: Any, draw: Any) -> Any:
    """Two layers that are packed, a tied pair that is not, a norm and a counter."""
    import torch
    from torch import nn

    sparse: list[Any] = [nn.Linear(70, 45), nn.Linear(45, 33, bias=False)]
    words, last = nn.Embedding(9, 33), nn.Linear(33, 9)
    model = nn.Sequential(*sparse, nn.LayerNorm(33), words, last).to(dtype).eval().requires_grad_(False)
    model.register_buffer("count", torch.tensor(3))
    for layer in sparse:
        layer.weight.copy_(any_bits(tuple(layer.weight.shape), dtype, draw))
    last.weight = words.weight
    return model


def run(module: Any) -> None:
    """Products in packed form and by tiles; whatever they give."""
    import torch
    from bittersweet import sparse

    with torch.inference_mode():
        for layer in module.modules():
            if isinstance(layer, sparse.SparseLinear):
                for batch in (1, 3, 40):
                    layer(torch.ones(batch, layer.in_features, dtype=layer.values.dtype))


def outcome(work: Callable[[], Any]) -> Any:
    """What it returns, or the error of Bittersweet that it raises."""
    import bittersweet as bs

    try:
        return work()
    except bs.Error as error:
        return error


def compare(expected: plain_reader.Tensors | None, found: Any) -> None:
    """`expected` None: the file is damaged."""
    if isinstance(found, Exception):
        if expected is not None and not plain_reader.may_be_refused(expected):
            raise Fault(f"a sound file was refused: {found}")
        return
    if expected is None:
        raise Fault("a damaged file was read")
    if found.keys() != expected.keys():
        raise Fault(f"names {sorted(found)} instead of {sorted(expected)}")
    for name, (dtype, shape, data) in expected.items():
        if dtype in plain_reader.SIZES and bits_of({0: found[name]})[0][1:] != (shape, data):
            raise Fault(f"'{name}' has other bits or another shape")


def bits_of(tensors: dict[Any, Any]) -> dict[Any, tuple[str, tuple[int, ...], bytes]]:
    """By name: type, shape and bytes."""
    return {name: (str(t.dtype), tuple(t.shape), _bytes(t)) for name, t in tensors.items()}


def _bytes(tensor: Any) -> bytes:
    import torch

    flat = tensor.detach().reshape(-1).contiguous()
    flat = flat.as_strided(
        flat.shape, (1,)
    )  # one element is contiguous with any stride, and not viewed as bytes
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Damages compressed files and reads them.")
    parser.add_argument("--trials", type=int, default=5000, help="how many (default 5000)")
    parser.add_argument("--seed", type=int, default=0, help="of all trials (default 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default 0)")
    parser.add_argument(
        "--core", type=Path, help="folder of a compiled module to use, built with a sanitizer"
    )
    options = parser.parse_args(arguments)
    import torch

    if options.core is not None:
        use_core(options.core)
    from bittersweet import _core

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        kinds = (Files(Path(folder)), States())
        if options.core is None:  # a sanitizer's own memory is beyond all limits
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(
                resource.RLIMIT_AS, (used + MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1])
            )
        for number in range(options.first, options.first + options.trials):
            faulthandler.dump_traceback_later(LONGEST_WAIT, exit=True)
            kind = kinds[number % 3 == 2]
            try:
                counts[
                    f"{type(kind).__name__.lower()} {kind.trial(random.Random(f'{options.seed} {number}'))}"
                ] += 1
            except Exception:
                counts["faults"] += 1
                print(f"trial {number} of seed {options.seed}:\n{traceback.format_exc(limit=-6)}", flush=True)
        faulthandler.cancel_dump_traceback_later()
    print(
        f"{options.trials} trials, {_core.strips_isa()}:",
        ", ".join(f"{n} {what}" for what, n in sorted(counts.items())),
    )
    return 1 if counts["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
