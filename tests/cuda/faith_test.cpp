// The emulator's own faith: faults that are planted one by one, each found and named, and twins without them that pass.
// docs/cuda.md lists them, and what the emulator cannot see.
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "planted_faults.hpp"

namespace {

using namespace planted;

std::vector<unsigned> launch_all(const std::function<void(const Args&)>& launch) {
  std::vector<unsigned> in(room), out(room), count(1);
  std::iota(in.begin(), in.end(), 0u);
  launch({in.data(), out.data(), count.data()});
  return out;
}

template <class K>
void once(unsigned resident = ~0u) {
  launch_all([&](const Args& args) { simt::Launcher(5, 2, resident).launch<K>(K::grid, args); });
}

struct Case {
  const char* name;
  const char* message;
  void (*planted)();
  void (*mended)();
};

template <template <Fault> class K, unsigned resident = ~0u>
Case of(const char* name, const char* message) {
  return {name, message, [] { once<K<Fault::planted>>(resident); }, [] { once<K<Fault::mended>>(resident); }};
}

// A kernel before the one that writes what it reads.
template <Fault F>
void two_kernels() {
  std::vector<unsigned> in(room), out(room);
  simt::fill_with_rubbish(out.data(), room * sizeof(unsigned));
  const Args args{in.data(), out.data(), nullptr};
  simt::Launcher launcher(1);
  if (F == Fault::planted) launcher.launch<Take>(2, args);
  launcher.launch<Fill>(2, args);
  launcher.launch<Take>(2, args);
}

// Memory that its owner has given back.
template <Fault F>
void released_memory() {
  std::vector<unsigned> in(room);
  auto out = std::make_unique<std::vector<unsigned>>(room);
  const Args args{in.data(), out->data(), nullptr};
  simt::Launcher launcher(1);
  launcher.launch<Fill>(2, args);
  if (F == Fault::planted) out.reset();
  launcher.launch<Take>(2, args);
}

template <Fault F>
void empty_grid() {
  launch_all([](const Args& args) { simt::Launcher(1).launch<Fill>(F == Fault::planted ? 0 : 1, args); });
}

#define FAITH_CASE(name, message) of<name>(#name, message)

const Case cases[] = {
    FAITH_CASE(SharedWritesOfTwoWarps, "a race on shared memory"),
    FAITH_CASE(SharedWritesOfTwoLanes, "a race on shared memory"),
    FAITH_CASE(MissingSyncwarp, "a race on shared memory"),
    FAITH_CASE(ShuffleForSyncwarp, "a race on shared memory"),
    FAITH_CASE(BallotForSyncwarp, "a race on shared memory"),
    FAITH_CASE(MissingSyncthreads, "a race on shared memory"),
    FAITH_CASE(MissingSyncthreadsBeforeReuse, "a race on shared memory"),
    FAITH_CASE(GlobalWritesOfTwoBlocks, "a race on global memory"),
    FAITH_CASE(GlobalReadOfAnotherBlocksWrite, "a race on global memory"),
    FAITH_CASE(GlobalReadOfAnotherWarpsWrite, "a race on global memory"),
    FAITH_CASE(GlobalReadOfAnotherLanesWrite, "a race on global memory"),
    FAITH_CASE(CountWithoutAtomic, "a race on global memory"),
    FAITH_CASE(PlainReadBesideAtomics, "a race on global memory"),
    FAITH_CASE(BitsOfOneWord, "a race on global memory"),
    FAITH_CASE(LastBlockWithoutFences, "a race on global memory"),
    FAITH_CASE(LastBlockWithoutReleasingFence, "a race on global memory"),
    FAITH_CASE(LastBlockWithoutAcquiringFence, "a race on global memory"),
    FAITH_CASE(LastBlockWithoutBarrier, "a race on global memory"),
    FAITH_CASE(BarrierInDivergentCode, "never come"),
    FAITH_CASE(BarriersOfTwoBranches, "different barriers"),
    FAITH_CASE(ReturnBeforeBarrier, "never come"),
    FAITH_CASE(ShuffleWithLanesMissing, "never come"),
    FAITH_CASE(BallotAfterReturn, "never come"),
    FAITH_CASE(MaskOfSomeLanes, "without all lanes"),
    FAITH_CASE(ShufflesAtTwoPlaces, "different places"),
    FAITH_CASE(SumAndBallotMeet, "different collectives"),
    of<WaitForALaterBlock, 1>("WaitForALaterBlock", "wait in a loop"),
    FAITH_CASE(WaitForAFlagOfNobody, "wait in a loop"),
    FAITH_CASE(MisalignedVectorLoad, "a misaligned vector load or store"),
    FAITH_CASE(MisalignedVectorStore, "a misaligned vector load or store"),
    FAITH_CASE(MisalignedVectorByPointer, "misaligned"),
    FAITH_CASE(MisalignedNumber, "misaligned"),
    FAITH_CASE(SharedOfLessAlignmentThanVectors, "a misaligned vector load or store"),
    FAITH_CASE(ReadBehindTheEnd, "an access out of bounds: a read of 4 bytes at byte 1024 from an allocation of 1024"),
    FAITH_CASE(WriteBehindTheEnd, "an access out of bounds: a write"),
    FAITH_CASE(AtomicBehindTheEnd, "an access out of bounds: an atomic"),
    FAITH_CASE(ReadBeforeTheBegin, "an access out of bounds"),
    FAITH_CASE(VectorOverTheEnd, "an access out of bounds: a read"),
    FAITH_CASE(NullPointer, "an access out of bounds"),
    FAITH_CASE(IndexBehindASharedArray, "index 64 out of bounds"),
    FAITH_CASE(PointerBehindSharedMemory, "an access out of bounds"),
    FAITH_CASE(SharedMemoryOfAnotherBlock, "an access out of bounds"),
    {"ReleasedMemory", "an access out of bounds", released_memory<Fault::planted>, released_memory<Fault::mended>},
    FAITH_CASE(WriteToArguments, "a write to a kernel's arguments"),
    FAITH_CASE(UnwrittenShared, "a read of what nobody has written: .* shared memory"),
    {"UnwrittenByTheKernelBefore", "a read of what nobody has written", two_kernels<Fault::planted>,
     two_kernels<Fault::mended>},
    FAITH_CASE(WrappingCounter, "a counter of 32 bits that wraps"),
    FAITH_CASE(WrappingSharedBin, "a counter of 32 bits that wraps"),
    FAITH_CASE(WrappingSumOfAWarp, "does not fit into 32 bits"),
    {"EmptyGrid", "an empty grid", empty_grid<Fault::planted>, empty_grid<Fault::mended>},
};

class Faith : public testing::TestWithParam<Case> {};

TEST_P(Faith, FindsThePlantedFault) {
  simt::set_patience(1'000'000);
  EXPECT_DEATH(GetParam().planted(), GetParam().message);
  GetParam().mended();
}

INSTANTIATE_TEST_SUITE_P(Faults, Faith, testing::ValuesIn(cases),
                         [](const auto& of_case) { return of_case.param.name; });

// Launches that no device can make do not compile: simt::Launcher and, with nvcc, the device's refuse them.
static_assert(simt::launchable<Sized<1024, 49152, 32764>>);
static_assert(!simt::launchable<Sized<1056, 1, 1>>);
static_assert(!simt::launchable<Sized<0, 1, 1>>);
static_assert(!simt::launchable<Sized<48, 1, 1>>);
static_assert(!simt::launchable<Sized<1024, 49153, 1>>);
static_assert(!simt::launchable<Sized<1024, 1, 32765>>);

}  // namespace
