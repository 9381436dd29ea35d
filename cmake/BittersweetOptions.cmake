# Options, and what every target of the project is compiled with. Nothing here touches a parent project.
if(SKBUILD)
  set(CMAKE_INSTALL_LIBDIR lib)  # the same place in every wheel, whatever the distribution's own is
endif()
include(GNUInstallDirs)

# Tests, benchmarks and warnings as errors are for those who work on Bittersweet itself, not for its users.
set(developing ${PROJECT_IS_TOP_LEVEL})
if(SKBUILD)
  set(developing OFF)
endif()
option(BITTERSWEET_BUILD_TESTS "Build the C++ tests (needs GoogleTest)" ${developing})
option(BITTERSWEET_BUILD_BENCH "Build the benchmarks (needs Google Benchmark)" ${developing})
option(BITTERSWEET_BUILD_CUDA_BENCH "Build the programs of scripts/gpu_check.sh (where there is a CUDA compiler)"
  ${BITTERSWEET_BUILD_BENCH})
option(BITTERSWEET_BUILD_PYTHON "Build the Python module _core (needs pybind11 >= 2.10)" ${PROJECT_IS_TOP_LEVEL})
option(BITTERSWEET_INSTALL "Give install rules for headers, library and config package" ${PROJECT_IS_TOP_LEVEL})
option(BITTERSWEET_WERROR "Treat compiler warnings as errors" ${developing})

if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12
    OR CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  message(FATAL_ERROR "${CMAKE_CXX_COMPILER} is ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}; Bittersweet needs "
    "GCC 12 or Clang 14, or newer. Install one (Debian: apt-get install g++-12) and name it: CXX=g++-12.")
endif()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

# bittersweet_require(<name> <option> <Debian package> [find_package arguments...])
macro(bittersweet_require name option debian)
  find_package(${name} ${ARGN} QUIET)
  if(NOT ${name}_FOUND)
    message(FATAL_ERROR "${option} is ON, but ${name} was not found. "
      "Install it (Debian: apt-get install ${debian}) or configure with -D${option}=OFF.")
  endif()
endmacro()

set(BITTERSWEET_TARGET_PROPERTIES
  CXX_EXTENSIONS OFF
  CXX_SCAN_FOR_MODULES OFF  # there are none, and Clang's scanner is a package of its own
  CXX_VISIBILITY_PRESET hidden
  VISIBILITY_INLINES_HIDDEN ON
  POSITION_INDEPENDENT_CODE ON)

set(BITTERSWEET_WARNINGS "$<$<COMPILE_LANG_AND_ID:CXX,GNU,Clang,AppleClang>:-Wall;-Wextra;-Wshadow;-Wpedantic>")
if(BITTERSWEET_WERROR)
  list(APPEND BITTERSWEET_WARNINGS "$<$<COMPILE_LANG_AND_ID:CXX,GNU,Clang,AppleClang>:-Werror>")
endif()
