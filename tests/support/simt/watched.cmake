# Emulated kernels whose every access of memory is watched (watch.cpp). The calls are those that GCC makes for its thread
# sanitizer; the sanitizer's library is not linked. Not under sanitizers, which bring their own.
set_property(GLOBAL APPEND PROPERTY BITTERSWEET_TESTS cuda/faith_test.cpp)
if(CMAKE_CXX_FLAGS MATCHES "-fsanitize" OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  message(STATUS "Tests cuda.faith and cuda.watched are not built: they need GCC and no sanitizer")
  return()
endif()
set(watched_flags -fsanitize=thread,bounds,alignment -fno-sanitize-recover=bounds,alignment -g1)

add_library(watcher STATIC EXCLUDE_FROM_ALL support/simt/simt.cpp support/simt/watch.cpp
  support/simt/watch_calls.cpp)
target_include_directories(watcher PRIVATE "${PROJECT_SOURCE_DIR}/tests")
target_compile_options(watcher PRIVATE ${BITTERSWEET_WARNINGS})
target_link_libraries(watcher PUBLIC bittersweet::headers)
target_link_options(watcher INTERFACE -fsanitize=undefined)

bittersweet_test(cuda/faith)
target_compile_options(test_cuda.faith PRIVATE ${watched_flags})
target_link_libraries(test_cuda.faith PRIVATE watcher)

# The emulated tests again. What is compiled here comes first, so that the linker takes its inline functions.
get_target_property(watched_sources emulated_cuda SOURCES)
list(REMOVE_ITEM watched_sources support/simt/simt.cpp)
add_library(watched_cuda OBJECT EXCLUDE_FROM_ALL ${watched_sources})
target_link_libraries(watched_cuda PRIVATE bittersweet::headers)
target_include_directories(watched_cuda PRIVATE "${PROJECT_SOURCE_DIR}/tests" "${PROJECT_SOURCE_DIR}"
  "${PROJECT_SOURCE_DIR}/src")
get_target_property(watched_options emulated_cuda COMPILE_OPTIONS)
target_compile_options(watched_cuda PRIVATE ${watched_options} ${watched_flags})
set_target_properties(watched_cuda PROPERTIES CXX_EXTENSIONS OFF)
set(objects $<TARGET_OBJECTS:watched_cuda>)
foreach(name ${emulated_tests})
  list(APPEND objects $<TARGET_OBJECTS:test_cuda.${name}>)
endforeach()
add_executable(test_cuda.watched ${objects})
target_link_libraries(test_cuda.watched PRIVATE watcher bittersweet::bittersweet GTest::gtest_main Threads::Threads)
# Those that take seconds although every access is a call.
add_test(NAME cuda.watched COMMAND test_cuda.watched
  --gtest_filter=CudaAdam.*:CudaAdamDrawn.*:CudaCalibration.EveryTypePlacementAndSize:CudaCalibration.ValuesThatAreNotFinite*:CudaOrders.EverySelector:CudaRounding.*:CudaVerbs.*:CudaStep.RowsThatBecomeEmpty:CudaRounds.RoomForSomeCandidates:CudaRounds.TheFirstNaN:CudaRounds.RandomNumbersOfParts:CudaDelta.EveryKernelWatched:CudaStrips.PacksAsTheReferenceAndBack:CudaShares.DeadElementsByMask:CudaUnits.ZerosInTheSameStep:CudaUnits.NaNAndBadBudgetsStopEverything:CudaBounds.ZerosAndReplaysWithOtherBudgets:CudaBounds.VoidSteps:CudaSelectorScopes.VoidStepsAndZeros:CudaSelectorScopes.AsManyRoundsAsTensors)
set_tests_properties(cuda.watched PROPERTIES TIMEOUT 600)
