# The kernels are compiled once per instruction set and chosen at run time. Each unit keeps its code in an unnamed
# namespace: a function shared between units would be taken by the linker from any of them, AVX-512 included
# (scripts/check_symbols.sh looks for that).
include(CheckCXXCompilerFlag)

# bittersweet_isa_unit(<target> <source> [flags...]): adds the source, always optimised, with these -m flags.
# errno and floating-point traps are not observable results of a score, and both keep loops from being vectorised.
function(bittersweet_isa_unit target source)
  foreach(flag IN LISTS ARGN)
    string(MAKE_C_IDENTIFIER "BITTERSWEET_HAS${flag}" supported)
    check_cxx_compiler_flag("${flag}" ${supported})
    if(NOT ${supported})
      message(FATAL_ERROR
        "${source} needs the compiler option ${flag}, which ${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} "
        "${CMAKE_CXX_COMPILER_VERSION}) lacks. Use GCC 12 or newer, or Clang 14 or newer.")
    endif()
  endforeach()
  target_sources(${target} PRIVATE "${source}")
  set_property(SOURCE "${source}" TARGET_DIRECTORY ${target} APPEND PROPERTY COMPILE_OPTIONS
    -O3 -fno-math-errno -fno-trapping-math ${ARGN})
endfunction()
