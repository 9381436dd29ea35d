// Threads of an OpenMP runtime that is in the process already. They are awake when a call begins, and there are no
// others beside them that wait for the same processors.
#pragma once

namespace bittersweet::cpu {

using Work = void (*)(const void* context, int thread);

// Takes the OpenMP runtime that the loaded library `name` is linked with (null: any that the process has), from now on
// and in every thread. False, with nothing changed, where that library is not loaded or has none. A child of this
// process after a fork has no runtime, lent before or not: the threads of one do not survive, and are waited for.
bool lend_threads_of(const char* name);
bool threads_are_lent() noexcept;

// work(context, thread) for 0, on the caller, and for others below `threads`, as many as the runtime gives: none inside
// a parallel region. Returns when all have returned; false, with nothing done, where no runtime is lent or it would not
// give `threads` of its own.
bool run_on_lent(int threads, Work work, const void* context);

}  // namespace bittersweet::cpu
