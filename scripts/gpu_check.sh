#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command, on a machine without a network.
# Usage: scripts/gpu_check.sh quick|full [--dry] [--out DIR] [--only STEP ...]
#
#   quick  at most 150 s with the build: the four first measurements, the same bits as the CPU, the headline
#   full   at most 8 minutes: also capture and replay, awkward data, dtypes, scorers, sizes up to 4 billion, torch and
#          CUB beside it, Nsight counters, pytest and the C++ tests on the device; compute-sanitizer over small steps
#          and, as far as the time goes, over the C++ tests (--only runs all that it names)
#   --dry  everything but the device: compiles for sm_90, runs every program's oracle, checks the format
#
# Each step has a time limit and a failing one stops no other. results.json in the output folder is written anew after
# every step; log.txt keeps what the steps printed; report.md is what bench/cuda/report.py makes of the figures. The
# folder is --out, else $OUT, else bench/results/gpu-<device>-<date>. Exit status: 0 all passed and all goals met, 1 a
# step did not pass, 3 goals missed and nothing else, 2 bad arguments.
#
# The machine needs CUDA 12.4 or newer, CMake, ninja and Python 3.10 or newer; for `full` also torch, NumPy, pybind11,
# pytest and hypothesis. Take along the source tree and, for `full`, the ignored folder .carry that
# scripts/gpu_carry.sh fills here (GoogleTest's sources, CCCL's headers, the commit's name: 5 MB). Nothing is fetched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" bench/cuda/steps.py "$@"
