// Calibration on a device: add_squares of calibration.hpp over memory that lies there. The promises of cuda.hpp hold:
// everything is enqueued on the caller's stream, nothing is allocated or waited for, a call can be captured. Pointers
// are device memory, sums and counts included.
//
// Same bits as the CPU engine, whatever the grid. Sums that are still to be read may be given to the next call of the
// stream: who has added everything waits once, and looks at counts[1] before believing the sums.
#pragma once

#include "bittersweet/cuda.hpp"
#include "bittersweet/engine/calibration.hpp"

namespace bittersweet::cuda {

// 8 bytes a column for each 256 rows; 0 up to 256 rows.
std::size_t calibration_workspace_bytes(std::int64_t rows, std::int64_t columns);

// Throws the errors of calibration.hpp, and ArgumentError for a smaller workspace, before anything is enqueued.
void add_squares(const Queue& queue, const LayerInput& input, const SquareSums& to, void* workspace,
                 std::size_t workspace_bytes);

}  // namespace bittersweet::cuda
