// nvfp4._C.emulation: the software model of SM120's block-scaled MMA, on the host, for tests and for `nvfp4 selftest`.
#include <pybind11/numpy.h>

#include <cstdint>
#include <string>

#include "cuda/emulation/mma_mxf4nvf4.h"
#include "definitions.h"
#include "nvfp4/errors.h"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <typename T>
void check_shape(const char* name, const Array<T>& array, py::ssize_t tiles, py::ssize_t columns) {
  const bool vector = columns == 0;
  const bool ok = array.ndim() == (vector ? 2 : 3) && array.shape(0) == tiles &&
                  array.shape(1) == nvfp4::emulation::kWarp && (vector || array.shape(2) == columns);
  std::string got;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) got += (i ? ", " : "") + std::to_string(array.shape(i));
  nvfp4::check(ok, "mma_m16n8k64: ", name, ": got shape [", got, "], wanted [", tiles, ", 32", vector ? "" : ", ",
               vector ? "" : std::to_string(columns), "]");
}

py::array_t<float> mma_m16n8k64(const Array<uint32_t>& a, const Array<uint32_t>& b, const Array<float>& c,
                                const Array<uint32_t>& sfa, const Array<uint32_t>& sfb, int thread_id_a,
                                int thread_id_b) {
  const py::ssize_t tiles = a.ndim() == 3 ? a.shape(0) : 0;
  check_shape("a", a, tiles, 4);
  check_shape("b", b, tiles, 2);
  check_shape("c", c, tiles, 4);
  check_shape("sfa", sfa, tiles, 0);
  check_shape("sfb", sfb, tiles, 0);
  nvfp4::check(thread_id_a == 0 || thread_id_a == 1, "mma_m16n8k64: thread_id_a: got ", thread_id_a, ", wanted 0 or 1");
  nvfp4::check(thread_id_b >= 0 && thread_id_b < 4, "mma_m16n8k64: thread_id_b: got ", thread_id_b, ", wanted 0 to 3");
  py::array_t<float> d({tiles, py::ssize_t{nvfp4::emulation::kWarp}, py::ssize_t{4}});
  const nvfp4::emulation::Selectors selectors{static_cast<uint32_t>(thread_id_a), static_cast<uint32_t>(thread_id_b)};
  for (py::ssize_t i = 0; i < tiles; ++i) {
    nvfp4::emulation::mma_m16n8k64(reinterpret_cast<const uint32_t (*)[4]>(a.data(i, 0, 0)),
                                   reinterpret_cast<const uint32_t (*)[2]>(b.data(i, 0, 0)),
                                   reinterpret_cast<const float (*)[4]>(c.data(i, 0, 0)), sfa.data(i, 0),
                                   sfb.data(i, 0), selectors, reinterpret_cast<float (*)[4]>(d.mutable_data(i, 0, 0)));
  }
  return d;
}

}  // namespace

void define_emulation(py::module_ m) {
  m.def("mma_m16n8k64", &mma_m16n8k64, "a"_a, "b"_a, "c"_a, "sfa"_a, "sfb"_a, "thread_id_a"_a, "thread_id_b"_a,
        "SM120's block-scaled FP4 MMA by its published arithmetic: registers of whole warps in and out.");
}
