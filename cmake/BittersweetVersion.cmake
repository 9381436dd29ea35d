# Reads the version from include/bittersweet/version.hpp, its one source, and checks that its macros agree.
function(bittersweet_read_version output)
  set(header "${CMAKE_CURRENT_SOURCE_DIR}/include/bittersweet/version.hpp")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${header}")
  file(READ "${header}" text)
  foreach(part MAJOR MINOR PATCH)
    if(NOT text MATCHES "#define BITTERSWEET_VERSION_${part} ([0-9]+)")
      message(FATAL_ERROR "${header}: BITTERSWEET_VERSION_${part} is not defined as a number")
    endif()
    set(${part} "${CMAKE_MATCH_1}")
  endforeach()
  if(NOT text MATCHES "#define BITTERSWEET_VERSION_STRING \"([^\"]+)\"" OR
     NOT CMAKE_MATCH_1 STREQUAL "${MAJOR}.${MINOR}.${PATCH}")
    message(FATAL_ERROR
      "${header}: BITTERSWEET_VERSION_STRING is not \"${MAJOR}.${MINOR}.${PATCH}\", as the three numbers above it say")
  endif()
  set(${output} "${MAJOR}.${MINOR}.${PATCH}" PARENT_SCOPE)
endfunction()
