// The version of Bittersweet. CMake and the Python package read it from here.
#pragma once

#define BITTERSWEET_VERSION_MAJOR 0
#define BITTERSWEET_VERSION_MINOR 1
#define BITTERSWEET_VERSION_PATCH 0
#define BITTERSWEET_VERSION_STRING "0.1.0"
