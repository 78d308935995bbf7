// The submodules of nvfp4._C, one source file each.
#pragma once

#include <pybind11/pybind11.h>

void define_cpu(pybind11::module_ m);
void define_cuda(pybind11::module_ m);  // only in builds with the CUDA part
void define_dispatch(pybind11::module_ m);
void define_emulation(pybind11::module_ m);
