// The public face of stochastic rounding: f32 arrays as bf16 whose mean is what was rounded.
//
// Promises: an error changes nothing; the same inputs give the same bits whatever the number of threads, the
// instruction set, or how arrays are dealt out to calls; the floating-point environment has no part in it.
#pragma once

#include <span>

#include "bittersweet/engine/rounding.hpp"

namespace bittersweet {

// Rounds every array, whose `key` says which random bits it draws: see stochastic_rounding.hpp for the values, and for
// what becomes of NaN, infinities, zeros, denormals and the largest numbers.
//
// Throws ShapeError for a negative numel, LayoutError for a null pointer to elements or one that is no multiple of
// their size, ArgumentError for a stream from 2^24.
void stochastic_round(std::span<const RoundedArray> arrays);

}  // namespace bittersweet
