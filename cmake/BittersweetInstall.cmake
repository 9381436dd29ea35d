# `cmake --install` gives headers, the library and a config package. A wheel takes the component `headers` alone:
# a static library from one compiler is no promise to another.
include(CMakePackageConfigHelpers)

set(config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/bittersweet")

install(DIRECTORY include/ DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT headers FILES_MATCHING PATTERN "*.hpp")
install(TARGETS bittersweet_headers EXPORT bittersweetHeaders COMPONENT headers)
install(EXPORT bittersweetHeaders NAMESPACE bittersweet:: DESTINATION "${config_dir}" COMPONENT headers)

set(library bittersweet)
if(BITTERSWEET_HAS_CUDA)
  list(APPEND library bittersweet_cuda)
endif()
install(TARGETS ${library} EXPORT bittersweetLibrary ARCHIVE COMPONENT library)
install(EXPORT bittersweetLibrary NAMESPACE bittersweet:: DESTINATION "${config_dir}" COMPONENT library)

configure_package_config_file(cmake/bittersweetConfig.cmake.in "${PROJECT_BINARY_DIR}/bittersweetConfig.cmake"
  INSTALL_DESTINATION "${config_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/bittersweetConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/bittersweetConfig.cmake" "${PROJECT_BINARY_DIR}/bittersweetConfigVersion.cmake"
  DESTINATION "${config_dir}" COMPONENT headers)
