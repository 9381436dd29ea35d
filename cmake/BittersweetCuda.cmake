# Is there a CUDA engine in this build? Sets BITTERSWEET_HAS_CUDA, and BITTERSWEET_CUDA_ABSENT_REASON where not.
# Enables the language CUDA here, at the top, for the engine and for the tests.
set(BITTERSWEET_CUDA auto CACHE STRING
  "CUDA engine: auto (if a CUDA compiler from 12.4 works), on (an error if none does) or off")
set_property(CACHE BITTERSWEET_CUDA PROPERTY STRINGS auto on off)
# Who develops compiles for one architecture. `pip install` compiles for the GPU at hand and, where there is none, for
# two generations and PTX that newer ones compile at first use: six would take twice as long (docs/compatibility.md).
set(architectures 90)
if(SKBUILD)
  set(architectures 80-real 90)
  execute_process(COMMAND nvidia-smi -L OUTPUT_VARIABLE gpus ERROR_QUIET RESULT_VARIABLE ignored)
  if(gpus MATCHES "GPU [0-9]+:")
    set(architectures native)
  endif()
endif()
set(BITTERSWEET_CUDA_ARCHITECTURES ${architectures} CACHE STRING
  "GPU architectures to compile for: native, all-major, or a list such as 90 or 80;90")

set(BITTERSWEET_HAS_CUDA OFF)
string(TOLOWER "${BITTERSWEET_CUDA}" cuda)
if(cuda STREQUAL "off")
  set(BITTERSWEET_CUDA_ABSENT_REASON "it was configured with BITTERSWEET_CUDA=off")
elseif(NOT cuda MATCHES "^(auto|on)$")
  message(FATAL_ERROR "BITTERSWEET_CUDA=${BITTERSWEET_CUDA}: accepted are auto, on and off.")
else()
  include(CheckLanguage)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES "${BITTERSWEET_CUDA_ARCHITECTURES}")
  endif()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(BITTERSWEET_CUDA_ABSENT_REASON "no working CUDA compiler was found when it was configured")
  else()
    enable_language(CUDA)
    find_package(CUDAToolkit QUIET)
    if(NOT CMAKE_CUDA_COMPILER_ID STREQUAL "NVIDIA" OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
      set(BITTERSWEET_CUDA_ABSENT_REASON
        "its CUDA compiler was ${CMAKE_CUDA_COMPILER_ID} ${CMAKE_CUDA_COMPILER_VERSION}, and nvcc 12.4 is needed")
    elseif(NOT TARGET CUDA::cudart_static)
      set(BITTERSWEET_CUDA_ABSENT_REASON "the CUDA Toolkit had no static runtime library (cudart_static)")
    else()
      set(BITTERSWEET_HAS_CUDA ON)
    endif()
  endif()
endif()

if(BITTERSWEET_HAS_CUDA)
  message(STATUS "CUDA engine: nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES} "
    "(BITTERSWEET_CUDA_ARCHITECTURES)")
elseif(cuda STREQUAL "on")
  message(FATAL_ERROR
    "BITTERSWEET_CUDA=on, but ${BITTERSWEET_CUDA_ABSENT_REASON}. Install the CUDA Toolkit 12.4 or newer and put nvcc on "
    "the PATH (or set CUDACXX), or configure with -DBITTERSWEET_CUDA=auto or off.")
else()
  message(STATUS "CUDA engine: absent, ${BITTERSWEET_CUDA_ABSENT_REASON}")
endif()
