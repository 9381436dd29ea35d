// The public face of calibration: sums of the squares of a layer's inputs, column by column.
//
// Promises: an error changes nothing; the same inputs give the same bits whatever the number of threads, the
// instruction set or the device.
#pragma once

#include "bittersweet/engine/calibration.hpp"

namespace bittersweet {

// Adds a matrix to the sums, as engine/calibration.hpp says. Values that are not finite are no error here: they are
// counted, and the sums are then for nobody.
//
// Throws ShapeError for negative sizes and for `together` or `period` below 1, DTypeError for a matrix of no dtype,
// LayoutError for a null pointer to elements or one that is no multiple of their size.
void add_squares(const LayerInput& input, const SquareSums& to);

}  // namespace bittersweet
