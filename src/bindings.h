// The parts of the module mlx_ncps._ext that have files of their own.
#pragma once

#include <nanobind/nanobind.h>

void bind_step_cell(nanobind::module_& m);
