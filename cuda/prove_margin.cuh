// What the hot pass rests on, over all non-negative floats of a device: its square root without a branch is the nearest
// float, and reciprocal roots are as close to the exact powers as the margins say.
#pragma once

#include "verbs.cuh"

namespace bittersweet::cuda {

struct ProveMargin {
  static constexpr u32 threads = 256, blocks = 4;
  struct Args {
    MarginProof* proof;
    u32 step;  // 1: every float
  };
  struct Shared {};

  static BITTERSWEET_DEVICE u32 error_of(float found, double exact) {  // relative, as bits of a float
    const double error = static_cast<double>(found) / exact - 1;
    const auto size = static_cast<float>(error < 0 ? -error : error);
    return size == size ? std::bit_cast<u32>(size) : 0x7f800000u;
  }
  static BITTERSWEET_DEVICE void keep_worst(float* worst, u32 bits) { atomicMax(reinterpret_cast<u32*>(worst), bits); }

  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    MarginProof& proof = *args.proof;
    u64 checked = 0, wrong = 0;
    u32 rough = 0, reciprocal = 0;
    for (u64 i = first_thread() * args.step; i <= 0x7f800000u; i += all_threads() * args.step) {
      const float u = std::bit_cast<float>(static_cast<u32>(i));
      ++checked;
      wrong += std::bit_cast<u32>(sqrt(u)) != std::bit_cast<u32>(__fsqrt_rn(u));
      if (i == 0 || i == 0x7f800000u) continue;
      const double exact = ::sqrt(::sqrt(static_cast<double>(u)));
      if (i >= 0x00800000u) {
        const u32 fourth = error_of(quick_rsqrt(quick_rsqrt(u)), exact);
        const u32 second = error_of(u * quick_rsqrt(u), ::sqrt(static_cast<double>(u)));
        rough = fourth > rough ? fourth : rough;
        rough = second > rough ? second : rough;
      }
      const u32 error = error_of(rsqrt(rsqrt(u)), exact);
      reciprocal = error > reciprocal ? error : reciprocal;
    }
    add_warp(&proof.checked, checked);
    add_warp(&proof.wrong_roots, wrong);
    keep_worst(&proof.rough_error, rough);
    keep_worst(&proof.reciprocal_error, reciprocal);
  }
};

template <class L>
void prove_margin(L& launcher, MarginProof* proof, u32 step) {
  zero(launcher, proof, sizeof(MarginProof));
  launcher.template launch<ProveMargin>(grid_for<ProveMargin>(~u64{0}, launcher.processors()), {proof, step});
}

}  // namespace bittersweet::cuda
