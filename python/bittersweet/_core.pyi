"""The compiled module. Private: its tables hold addresses, and only the Python layer checks what goes in."""

from array import array
from collections.abc import Sequence
from typing import Any, TypedDict

__version__: str
TABLE_COLUMNS: tuple[str, ...]
OPTIM_COLUMNS: tuple[str, ...]
OPTION_COLUMNS: tuple[str, ...]
ROUNDING_STREAMS: int
COHERENCE_WIDTH: int  # doubles of one tensor's scalars
SKETCH_PLACES: int
STRIP_HEIGHT: int
STRIP_WIDTH: int
STRIP_SLACK: int
DELTA_HEIGHT: int
DELTA_GROUP: int
DELTA_COLUMNS: int
CUDA_BUILT: bool
CUDA_REPORT_WORDS: int
CUDA_FAILED: int

ScorerSpec = tuple[str, float | None, float | None, int]  # name, eps, q, seed
SelectorSpec = tuple[str, float, bool, float, str]  # name, fraction, verify, tolerance, by

QueueSpec = tuple[int, int]  # device, stream
# selector, keyword arguments of make_masks but for the budget, zero, address of thresholds or 0
StepOptions = tuple[SelectorSpec, dict[str, Any], int, int]
AdamMemory = tuple[
    int, int, int, int, int
]  # addresses of grad_scale, found_inf, dirty and workspace, its bytes
StepMemory = tuple[
    int, int, int, int, int
]  # addresses of budget, report, tensor_pruned and workspace, its bytes
# Addresses and lengths of masks or codes, values and offsets; dtype, rows, columns.
PackedArrays = tuple[int, int, int, int, int, int, int, int, int]
# Addresses of bitmask, row offsets and values, how many these are; dtype, rows, columns.
RowArrays = tuple[int, int, int, int, int, int, int]

class ScorerRow(TypedDict):
    name: str
    alias_of: str | None
    formula: str
    reads: list[str]
    default_eps: float | None
    signed: bool

class DeviceRow(TypedDict):
    index: int
    name: str
    capability: str
    verdict: str
    usable: bool

class ThresholdResult(TypedDict):
    value: float
    k: int
    total: int
    pruned: int | None
    dead: int
    count_below: int | None
    count_equal: int | None
    passes: float
    extra_bytes: int
    nonfinite: int
    standard_error: float | None
    converged: bool
    v_below_eps: float | None
    v_zero: float | None
    path: str

class MasksResult(TypedDict):
    value: float | None
    k: int
    total: int
    pruned: int
    dead: int
    count_below: int | None
    count_equal: int | None
    passes: float
    extra_bytes: int
    nonfinite: int
    standard_error: float | None
    converged: bool
    v_below_eps: float | None
    v_zero: float | None
    path: str
    tensor_pruned: list[int]
    tensor_threshold: list[float | None]
    churn: int
    empty_rows: int

def build_info() -> dict[str, Any]: ...
def scorer_table() -> list[ScorerRow]: ...
def selector_names() -> list[str]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def lend_openmp_threads(name: str | None) -> bool: ...
def write_scores(table: array[int], names: list[str], scorer: ScorerSpec, out: array[int]) -> None: ...
def threshold(
    table: array[int],
    names: list[str],
    scorer: ScorerSpec,
    selector: SelectorSpec,
    *,
    sparsity: float | None,
    k: int | None,
    ties: str | None,
    nonfinite: str,
    seed: int,
    regrow: bool,
) -> ThresholdResult: ...
def make_masks(
    table: array[int],
    names: list[str],
    scorer: ScorerSpec,
    selector: SelectorSpec,
    *,
    sparsity: float | None,
    k: int | None,
    scope: str,
    distribution: str | None,
    rounding: str,
    remainder: str,
    max_tensor_sparsity: float | None,
    tensor_sparsity: list[tuple[int, int]] | None,
    ties: str | None,
    nonfinite: str,
    seed: int,
    regrow: bool,
) -> MasksResult: ...
def tensor_budgets(shapes: Sequence[Sequence[int]], sparsity: float, distribution: str) -> list[int]: ...
def apply_masks(table: array[int], which: int, roles: int) -> None: ...
def count_violations(table: array[int], which: int, roles: int) -> list[int]: ...
def count_live(table: array[int], which: int) -> list[int]: ...
def pack_mask(bool_ptr: int, numel: int, words_ptr: int) -> None: ...
def unpack_mask(words_ptr: int, numel: int, bool_ptr: int) -> None: ...
def trail_holds(trail: list[tuple[Any, Any, Any]]) -> bool: ...
def reorder_mask(
    words_ptr: int, numel: int, order: tuple[int, int], to_memory: bool, out_ptr: int
) -> None: ...
def strips_isa() -> str: ...
def measure_strips(
    dense_ptr: int, dtype: int, rows: int, columns: int, keep_ptr: int, masks_ptr: int, offsets_ptr: int
) -> int: ...
def pack_strips(dense_ptr: int, packed: PackedArrays) -> None: ...
def unpack_strips(packed: PackedArrays, first_row: int, rows: int, out_ptr: int) -> None: ...
def multiply_strips(
    packed: PackedArrays,
    x_ptr: int,
    batch: int,
    bias_ptr: int,
    y_ptr: int,
    dtype: int,
    reproducible: bool = True,
) -> None: ...
def check_strips(packed: PackedArrays) -> None: ...
def measure_delta(
    dense_ptr: int, dtype: int, rows: int, columns: int, keep_ptr: int, offsets_ptr: int
) -> tuple[int, int]: ...
def pack_delta(dense_ptr: int, keep_ptr: int, packed: PackedArrays) -> None: ...
def unpack_delta(packed: PackedArrays, first_row: int, rows: int, out_ptr: int) -> None: ...
def multiply_delta(
    packed: PackedArrays,
    x_ptr: int,
    batch: int,
    bias_ptr: int,
    y_ptr: int,
    dtype: int,
    reproducible: bool = True,
) -> None: ...
def check_delta(packed: PackedArrays) -> None: ...
def strips_to_rows(packed: PackedArrays, rows: RowArrays) -> None: ...
def strips_from_rows(rows: RowArrays, masks_ptr: int, offsets_ptr: int, values_ptr: int) -> None: ...
def check_rows(rows: RowArrays) -> None: ...
def release_workspace() -> None: ...

# A few words of every weight, moment and gradient of a table, mixed.
def fingerprint(table: array[int]) -> int: ...

# `step_adam`, and new masks of what it leaves: rows `order` of the step are those of the table `competing`.
# The options are those of `make_masks`; None for masks that could not be made, where `make_masks` would
# raise.
def step_adam_and_make_masks(
    table: array[int],
    groups: array[float],
    contracted: bool,
    lanes_f32: int,
    lanes_16bit: int,
    scale: float,
    weights_only: bool,
    order: list[int],
    competing: array[int],
    names: list[str],
    scorer: ScorerSpec,
    selector: SelectorSpec,
    **options: Any,
) -> tuple[list[int], MasksResult | None]: ...

# Rows of OPTIM_COLUMNS; `groups`: doubles, rows of OPTION_COLUMNS. Returns the rows whose dead weights were
# not all 0 before the step.
def step_adam(
    table: array[int],
    groups: array[float],
    contracted: bool,
    lanes_f32: int,
    lanes_16bit: int,
    scale: float,
    weights_only: bool,
) -> list[int]: ...

# x and its dtype, rows, columns; bytes that say which rows count, rows for each; factors of rows, how many of
# them. Then sums and the two counts. Addresses of the host, or of the queue's device.
LayerInputSpec = tuple[int, int, int, int, int, int, int, int]

def add_squares(input: LayerInputSpec, sums: tuple[int, int]) -> None: ...
def cuda_calibration_bytes(rows: int, columns: int) -> int: ...
def cuda_add_squares(
    queue: QueueSpec, input: LayerInputSpec, sums: tuple[int, int], workspace_ptr: int, bytes: int
) -> None: ...

# Rows of (address of float32, address of bfloat16, elements); row i draws from `stream` + i.
def stochastic_round(rows: array[int], seed: int, step: int, stream: int) -> None: ...

# `memory` holds, for each row of the table: previous, average, scalars, stream; previous; positions, their
# number, previous, scalars; snapshot, scalars; sums, updates, stream. Average, snapshot, sums and previous
# (but for the sketch's) are an address and the code of float32 or bfloat16, which draws by seed and stream.
def track_coherence(
    table: array[int], names: list[str], memory: array[int], decay: float, seed: int
) -> None: ...
def measure_retention(table: array[int], names: list[str], memory: array[int]) -> list[float]: ...
def track_sketch(table: array[int], names: list[str], memory: array[int], decay: float) -> None: ...
def compare_snapshot(table: array[int], names: list[str], memory: array[int]) -> None: ...
def accumulate_movement(
    table: array[int], names: list[str], memory: array[int], rates: list[float], seed: int
) -> None: ...
def sketch_positions(name: str, numel: int, seed: int) -> list[int]: ...
def coherence_modifiers(
    scalars: array[int], retention: list[float], alpha: float, a: int, b: int, c: int, d: float, floor: float
) -> list[float]: ...
def snapshot_modifiers(scalars: array[int], floor: float) -> list[float]: ...
def resolve_budget(sparsity: float | None, k: int | None, total: int) -> int: ...
def cuda_devices() -> list[DeviceRow]: ...
def cuda_self_test(device: int) -> str: ...
def cuda_step_bytes(
    table: array[int], names: list[str], scorer: ScorerSpec, options: StepOptions, masks: bool
) -> int: ...
def cuda_step(
    queue: QueueSpec,
    table: array[int],
    names: list[str],
    scorer: ScorerSpec,
    options: StepOptions,
    memory: StepMemory,
    masks: bool,
) -> None: ...
def cuda_read_report(
    words: Any, names: list[str], numels: list[int], nonfinite: str, masks: bool, scope: str, bounded: bool
) -> dict[str, Any]: ...
def cuda_write_budget(
    queue: QueueSpec, budget_ptr: int, sparsity: float | None, k: int | None, scope: str, total: int
) -> None: ...
def cuda_write_scores(
    queue: QueueSpec, table: array[int], names: list[str], scorer: ScorerSpec, out: array[int]
) -> None: ...
def cuda_apply_masks(queue: QueueSpec, table: array[int], which: int, roles: int) -> None: ...
def cuda_count_live(queue: QueueSpec, table: array[int], which: int, live_ptr: int) -> None: ...
def cuda_count_violations(
    queue: QueueSpec, table: array[int], which: int, roles: int, found_ptr: int
) -> None: ...
def cuda_adam_bytes(table: array[int], groups: array[float]) -> int: ...

# As step_adam with addresses on a device, step counts too. `rates`: an address a group, 0 where its lr is the
# number in `groups`; or empty. One flag (32 bits) a tensor is left where `memory` says.
def cuda_step_adam(
    queue: QueueSpec,
    table: array[int],
    groups: array[float],
    contracted: bool,
    lanes_f32: int,
    lanes_16bit: int,
    weights_only: bool,
    rates: array[int],
    memory: AdamMemory,
) -> None: ...
def cuda_stochastic_round(queue: QueueSpec, rows: array[int], seed: int, step: int, stream: int) -> None: ...
def cuda_count_strips(
    queue: QueueSpec,
    dense_ptr: int,
    dtype: int,
    rows: int,
    columns: int,
    keep_ptr: int,
    masks_ptr: int,
    offsets_ptr: int,
    lost_ptr: int,
) -> None: ...
def cuda_pack_strips(queue: QueueSpec, dense_ptr: int, packed: PackedArrays) -> None: ...
def cuda_unpack_strips(
    queue: QueueSpec, packed: PackedArrays, first_row: int, rows: int, out_ptr: int
) -> None: ...
def cuda_multiply_strips(
    queue: QueueSpec,
    packed: PackedArrays,
    x_ptr: int,
    batch: int,
    bias_ptr: int,
    y_ptr: int,
    dtype: int,
) -> None: ...
def cuda_count_delta(
    queue: QueueSpec,
    dense_ptr: int,
    dtype: int,
    rows: int,
    columns: int,
    keep_ptr: int,
    offsets_ptr: int,
    lost_ptr: int,
) -> None: ...
def cuda_pack_delta(queue: QueueSpec, dense_ptr: int, keep_ptr: int, packed: PackedArrays) -> None: ...
def cuda_unpack_delta(
    queue: QueueSpec, packed: PackedArrays, first_row: int, rows: int, out_ptr: int
) -> None: ...
def cuda_delta_bytes(rows: int, columns: int, batch: int) -> int: ...
def cuda_multiply_delta(
    queue: QueueSpec,
    packed: PackedArrays,
    x_ptr: int,
    batch: int,
    bias_ptr: int,
    y_ptr: int,
    dtype: int,
    workspace_ptr: int,
    bytes: int,
) -> None: ...
def cuda_track_bytes(table: array[int], names: list[str]) -> int: ...
def cuda_track_coherence(
    queue: QueueSpec,
    table: array[int],
    names: list[str],
    memory: array[int],
    decay: float,
    seed: int,
    workspace_ptr: int,
    bytes: int,
) -> None: ...
def cuda_measure_retention(
    queue: QueueSpec,
    table: array[int],
    names: list[str],
    memory: array[int],
    found_ptr: int,
    workspace_ptr: int,
    bytes: int,
) -> None: ...
def cuda_track_sketch(
    queue: QueueSpec, table: array[int], names: list[str], memory: array[int], decay: float
) -> None: ...
def cuda_compare_snapshot(
    queue: QueueSpec,
    table: array[int],
    names: list[str],
    memory: array[int],
    workspace_ptr: int,
    bytes: int,
) -> None: ...
def cuda_accumulate_movement(
    queue: QueueSpec,
    table: array[int],
    names: list[str],
    memory: array[int],
    rates: list[float],
    seed: int,
) -> None: ...

class Addresses:
    """See `tensors.addresses.Addresses`; `types` are the classes whose exchange API `api` is."""

    def __init__(self, api: object, types: tuple[type, ...]) -> None: ...
    def remember(self, tensors: list[Any], apart: bool = False) -> bool: ...
    def read(self, tensors: list[Any], out: array[int], places: array[int]) -> bool: ...
    def host_columns(
        self, tensors: list[Any], like: list[tuple[int, ...]] | None = None
    ) -> tuple[bytes, bytes, list[tuple[int, ...]], list[int]]:
        """Addresses, element types and shapes of plain row-major tensors on the host, with memory for all
        their elements, of the shapes `like` if those are given. Last the places of all others: 0, 0 and ()
        (or what `like` says) stand for them, as they do for None.
        """
    def of_other_shapes(self, tensors: list[Any], shapes: list[tuple[int, ...]]) -> list[int]:
        """The places of those that are neither None nor plain tensors of these shapes."""
    @staticmethod
    def knows(api: object) -> bool: ...

class ShardMap:
    def __init__(
        self, shapes: list[list[int]], boxes: array[int], ranks: int, geometries: array[int] | None = None
    ) -> None: ...
    @property
    def ranks(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def units(self) -> int: ...
    def boxed(self, tensor: int) -> bool: ...
    def copies(self, tensor: int, rank: int, which: int = 0) -> int: ...
    def counts(self, tensor: int, rank: int, which: int = 0) -> bool: ...

class ShardedPrune:
    def __init__(
        self,
        map: ShardMap,
        rank: int,
        table: array[int],
        names: list[str],
        tensors: list[int],
        names_of_all: list[str],
        scorer: ScorerSpec,
        selector: SelectorSpec,
        agreement: str,
        masks: bool = True,
        device: tuple[QueueSpec, int, int] | None = None,
        **given: Any,
    ) -> None: ...
    def next(self, fault: bool = False) -> memoryview | None: ...
    def report(self) -> Any: ...
    @property
    def agreement(self) -> str: ...

class RoundVector:
    def __buffer__(self, flags: int, /) -> memoryview: ...

def check_over_ranks(
    map: ShardMap, names: list[str], scorer: ScorerSpec, selector: SelectorSpec, **given: Any
) -> None: ...
def fault_vector() -> memoryview: ...
def cuda_sharded_bytes(table: array[int], names: list[str]) -> int: ...

BlockShape = tuple[int, int, int, bool]  # rows, inputs, inner, transposed

class CountedBlocks(TypedDict):
    k: int
    passes: int
    threshold: float | None
    count_below: int
    count_equal: int

class BlockwisePrune:
    """See blockwise.hpp."""

    def __init__(self, total: int, sparsity: float, scorer: ScorerSpec) -> None: ...
    @property
    def stage(self) -> str: ...
    def sample_positions(self) -> list[int]: ...
    def sample(self, memory: Any, dtype: int, shape: BlockShape, norms: Any, name: str) -> None: ...
    def count(
        self, memory: Any, dtype: int, shape: BlockShape, norms: Any, name: str, first: int
    ) -> None: ...
    def next(self) -> None: ...
    def write(self, memory: Any, dtype: int, shape: BlockShape, norms: Any, name: str) -> int: ...
    def finish(self) -> None: ...
    def report(self) -> CountedBlocks: ...

class NonFiniteWatch:
    """See blockwise.hpp."""

    def __init__(self) -> None: ...
    def look(
        self,
        memory: Any,
        dtype: int,
        shape: BlockShape,
        norms: Any,
        name: str,
        first: int,
        scorer: ScorerSpec,
        scope: str,
    ) -> None: ...
    def raise_if_found(self) -> None: ...

def prune_block(
    memory: Any,
    dtype: int,
    shape: BlockShape,
    norms: Any,
    name: str,
    scorer: ScorerSpec,
    sparsity: float,
    scope: str,
    rounding: str,
    remainder: str,
) -> int: ...
