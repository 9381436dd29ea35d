// Bittersweet: exact, fused, deterministic pruning of neural networks while they train.
//
// The map of the house:
//   score/    formulas, one a file; scorers.hpp is their list; a ScoreView is a scorer and the tensors it reads
//   engine/   what a device must do (engine.hpp), and the plain loops that define it (reference.hpp)
//   select/   from summaries of scores to the one threshold that meets a budget; selectors.hpp is the list
//   mask/     keep bits: layout, and how a threshold becomes bits
//   scope.hpp who competes with whom, and how much each tensor gives
//   flow.hpp  the four together, for any engine
//   prune.hpp the same as functions of the linked library, on its fast CPU engine
//   sharded.hpp  the same by several processes with a part of a model each; shard_map.hpp says which, sharded/ does it
//   blockwise.hpp  the same of tensors that are never in memory together
//   calibration.hpp  sums of squares of a layer's inputs, for the scorer wanda
//   track.hpp what scorers with a memory do on every training step
//   optim.hpp the optimizer's own pass, which holds the masks; optim/ has its formulas
//   rounding.hpp  float32 to bfloat16 without a loss in the mean; stochastic_rounding.hpp has the formula
//   sparse.hpp  matrices without their zeros, and products with them; sparse/ has their layout
//   cuda.hpp  a whole step on a GPU: its memory, its stream, no synchronisation; cuda_sparse.hpp, cuda_track.hpp,
//   cuda_calibration.hpp  more there
#pragma once

#include "bittersweet/blockwise.hpp"
#include "bittersweet/calibration.hpp"
#include "bittersweet/cuda.hpp"
#include "bittersweet/cuda_calibration.hpp"
#include "bittersweet/cuda_sparse.hpp"
#include "bittersweet/cuda_track.hpp"
#include "bittersweet/engine/reference.hpp"
#include "bittersweet/engine/reference_calibration.hpp"
#include "bittersweet/engine/reference_delta.hpp"
#include "bittersweet/engine/reference_optim.hpp"
#include "bittersweet/engine/reference_rounding.hpp"
#include "bittersweet/engine/reference_sparse.hpp"
#include "bittersweet/engine/reference_track.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/flow.hpp"
#include "bittersweet/optim.hpp"
#include "bittersweet/prune.hpp"
#include "bittersweet/rounding.hpp"
#include "bittersweet/sharded.hpp"
#include "bittersweet/sharded/flow.hpp"
#include "bittersweet/sparse.hpp"
#include "bittersweet/track.hpp"
#include "bittersweet/version.hpp"
