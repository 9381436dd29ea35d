# The installed library as its users meet it: another project finds it, links it and runs.
set(prefix "${PROJECT_BINARY_DIR}/tests/prefix")
foreach(component headers library)
  add_test(NAME install.${component}
    COMMAND "${CMAKE_COMMAND}" --install "${PROJECT_BINARY_DIR}" --prefix "${prefix}" --component ${component})
  set_tests_properties(install.${component} PROPERTIES FIXTURES_SETUP prefix RESOURCE_LOCK prefix)
endforeach()

# bittersweet_consumer_test(<name> <source dir> <command> [cmake options...]): configures, builds, runs the command.
function(bittersweet_consumer_test name source command)
  add_test(NAME ${name} COMMAND "${CMAKE_CTEST_COMMAND}"
    --build-and-test "${source}" "${PROJECT_BINARY_DIR}/tests/${name}"
    --build-generator "${CMAKE_GENERATOR}" --build-makeprogram "${CMAKE_MAKE_PROGRAM}"
    --build-options "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}" "-DCMAKE_CXX_FLAGS=${CMAKE_CXX_FLAGS}"
                    "-DCMAKE_BUILD_TYPE=Release" ${ARGN}
    --test-command ${command})
  set_tests_properties(${name} PROPERTIES FIXTURES_REQUIRED prefix TIMEOUT 600)
endfunction()

bittersweet_consumer_test(consumer.find_package "${PROJECT_SOURCE_DIR}/tests/consumer"
  "${CMAKE_CTEST_COMMAND};--output-on-failure" "-Dbittersweet_ROOT=${prefix}")
bittersweet_consumer_test(consumer.add_subdirectory "${PROJECT_SOURCE_DIR}/tests/consumer"
  "${CMAKE_CTEST_COMMAND};--output-on-failure" "-DBITTERSWEET_SOURCE_DIR=${PROJECT_SOURCE_DIR}" -DBITTERSWEET_CUDA=off)
bittersweet_consumer_test(consumer.example "${PROJECT_SOURCE_DIR}/examples/cpp"
  prune_vector "-Dbittersweet_ROOT=${prefix}")
bittersweet_consumer_test(consumer.example_of_ranks "${PROJECT_SOURCE_DIR}/examples/cpp"
  two_ranks "-Dbittersweet_ROOT=${prefix}")

# Asking for the CUDA engine where it cannot be built is an error with the reason.
add_test(NAME configure.cuda_on
  COMMAND "${CMAKE_COMMAND}" -E env "CUDACXX=${PROJECT_BINARY_DIR}/no_such_nvcc"
    "${CMAKE_COMMAND}" -S "${PROJECT_SOURCE_DIR}" -B "${PROJECT_BINARY_DIR}/tests/cuda_on" -G "${CMAKE_GENERATOR}"
    "-DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}" "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}" -DBITTERSWEET_CUDA=on)
set_tests_properties(configure.cuda_on PROPERTIES PASS_REGULAR_EXPRESSION "BITTERSWEET_CUDA=on, but")
