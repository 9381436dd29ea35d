// multiply_delta: y = x * transposed matrix + bias with the packed values. By the contract of engine/sparse.hpp a row's
// sum over each block of columns begins anew, so that all blocks of all panels are multiplied side by side: a block of
// threads takes one, a warp a group of 32 rows, a lane a row, and the block's part of x is a table in shared memory.
// What they find is added up in the order of the blocks by a second kernel: the bits are those of the CPU.
#pragma once

#include "delta.cuh"

namespace bittersweet::cuda {

template <DType W, int Batch>
struct MultiplyDelta {
  static constexpr u32 threads = panel_rows, blocks = 3;
  using Element = std::conditional_t<W == DType::f32, u32, u16>;
  struct Args {
    const std::uint8_t* codes;
    const std::uint64_t* offsets;
    const Element* values;
    TensorView x;  // the first of its columns of the batch
    float* sums;   // [batch][blocks][rows]
    DeltaShape shape;
    u32 batch;
  };

  static constexpr u32 entries = delta::entries;
  // Floats of an entry: whole vectors, and so many of them that neighbours begin in different banks.
  static constexpr u32 stride = Batch <= 4 ? Batch : Batch + 4;
  static constexpr int ahead = Batch <= 4 ? 8 : 4;

  struct Shared {
    alignas(16) float x[entries * stride];  // afterwards the sums, [batch][places]
  };

  static BITTERSWEET_DEVICE float value_of(Element bits) {
    if constexpr (W == DType::f32)
      return std::bit_cast<float>(bits);
    else
      return decode16<W>(bits);
  }

  static BITTERSWEET_DEVICE void add(const float* x, float w, float (&sum)[Batch]) {
    if constexpr (Batch == 1) {
      sum[0] = __fmaf_rn(w, x[0], sum[0]);
    } else if constexpr (Batch == 2) {
      const uint2 two = *reinterpret_cast<const uint2*>(x);
      sum[0] = __fmaf_rn(w, std::bit_cast<float>(two.x), sum[0]);
      sum[1] = __fmaf_rn(w, std::bit_cast<float>(two.y), sum[1]);
    } else {
#pragma unroll
      for (int b = 0; b < Batch; b += 4) {
        const uint4 four = reinterpret_cast<const uint4*>(x)[b / 4];
        sum[b] = __fmaf_rn(w, std::bit_cast<float>(four.x), sum[b]);
        sum[b + 1] = __fmaf_rn(w, std::bit_cast<float>(four.y), sum[b + 1]);
        sum[b + 2] = __fmaf_rn(w, std::bit_cast<float>(four.z), sum[b + 2]);
        sum[b + 3] = __fmaf_rn(w, std::bit_cast<float>(four.w), sum[b + 3]);
      }
    }
  }

  // Entry 0 and those beyond the block's columns are +0.
  static BITTERSWEET_DEVICE void fill(const Args& args, const DeltaBlock& block, Shared& shared) {
    const u32 entry = threadIdx.x;
    const bool column = entry > 0 && entry <= block.width;
#pragma unroll
    for (u32 b = 0; b < Batch; ++b) {
      const std::int64_t index = b * args.shape.columns + block.column + entry - 1;
      const bool there = column && b < args.batch;
      shared.x[entry * stride + b] = there ? load_as_float(args.x.data, args.x.dtype, index) : 0.0f;
    }
  }

  static BITTERSWEET_DEVICE void body(const Args& args, Shared& shared) {
    const DeltaBlock block = delta_block(args.shape, blockIdx.x);
    const DeltaLane at = delta_lane(block, args.offsets);
    DeltaSteps<Element, ahead> next;
    next.load(args.codes, args.values, at, 0);
    fill(args, block, shared);
    __syncthreads();
    float sum[Batch]{};
    for (u32 step = 0; step < at.steps; step += ahead) {
      const DeltaSteps<Element, ahead> now = next;
      next.load(args.codes, args.values, at, step + ahead);
#pragma unroll
      for (int i = 0; i < ahead; ++i) add(shared.x + now.codes[i] * stride, value_of(now.values[i]), sum);
    }
    __syncthreads();  // the table has been used
#pragma unroll
    for (u32 b = 0; b < Batch; ++b) shared.x[b * panel_rows + threadIdx.x] = sum[b];
    __syncthreads();
    if (threadIdx.x >= block.rows) return;
    const u32 place = args.codes[block.places(args.offsets) + threadIdx.x];
    float* to = args.sums + block.number * args.shape.rows + block.row + threadIdx.x;
    for (u32 b = 0; b < args.batch; ++b, to += args.shape.blocks * args.shape.rows)
      *to = shared.x[b * panel_rows + place];
  }
};

// Sums of blocks to those of rows: a thread has a row for one column of the batch.
struct AddBlocks {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    const float* sums;
    TensorView y, bias;
    std::int64_t rows;
    u32 blocks, chunks;  // of columns; of rows, `threads` each
  };
  struct Shared {};

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    const u32 b = blockIdx.x / args.chunks;
    const std::int64_t row = std::int64_t{blockIdx.x % args.chunks} * threads + threadIdx.x;
    if (row >= args.rows) return;
    const std::int64_t first = std::int64_t{b} * args.blocks;
    constexpr u32 ahead = 8;
    float y = 0.0f;
    for (u32 block = 0; block < args.blocks; block += ahead) {
      float found[ahead];
#pragma unroll
      for (u32 i = 0; i < ahead; ++i)
        found[i] = block + i < args.blocks ? args.sums[(first + block + i) * args.rows + row] : 0.0f;
#pragma unroll
      for (u32 i = 0; i < ahead; ++i) y += found[i];  // +0 changes no sum that began at +0
    }
    if (args.bias.data != nullptr) y += load_as_float(args.bias.data, args.bias.dtype, row);
    if (y != y) y = std::bit_cast<float>(0x7fc00000u);
    store_from_float(args.y.data, args.y.dtype, b * args.rows + row, y);
  }
};

template <DType W, class L>
void multiply_blocks(L& launcher, const DeltaPlan& plan, const StripProduct& product, float* sums) {
  by_batch(static_cast<u32>(product.batch), [&](auto batch) {
    using K = MultiplyDelta<W, decltype(batch)::value>;
    launcher.template launch<K>(
        plan.grid(), {plan.codes, plan.offsets, static_cast<const typename K::Element*>(plan.values), product.x, sums,
                      plan.shape, static_cast<u32>(product.batch)});
  });
}

template <class L>
void multiply_delta(L& launcher, const DeltaMatrix& packed, const StripProduct& product, float* sums) {
  if (packed.rows == 0) return;
  const DeltaPlan plan = plan_of(packed);
  by_columns(product, packed.rows, packed.columns, [&](const StripProduct& part) {
    if (plan.grid() > 0) switch (plan.dtype) {
        case DType::f32: multiply_blocks<DType::f32>(launcher, plan, part, sums); break;
        case DType::bf16: multiply_blocks<DType::bf16>(launcher, plan, part, sums); break;
        case DType::f16: multiply_blocks<DType::f16>(launcher, plan, part, sums); break;
        case DType::none: break;
      }
    const auto chunks = static_cast<u32>((packed.rows + AddBlocks::threads - 1) / AddBlocks::threads);
    launcher.template launch<AddBlocks>(chunks * static_cast<u32>(part.batch),
                                        {sums, part.y, part.bias, packed.rows, plan.shape.blocks, chunks});
  });
}

}  // namespace bittersweet::cuda
