// nvfp4._C.dispatch: which kernel a problem gets on which GPU. Pure arithmetic: it answers for GPUs that are not here.
#include <pybind11/stl.h>

#include "arguments.h"
#include "definitions.h"
#include "dispatch/sm120_choice.h"
#include "nvfp4/layout.h"

namespace py = pybind11;
using py::literals::operator""_a;
using namespace nvfp4::dispatch;

void define_dispatch(py::module_ m) {
  py::class_<Gpu>(m, "Gpu", "What the cost model knows about a GPU.")
      .def(py::init([](int sms, double clock, double bandwidth) { return Gpu{sms, clock, bandwidth}; }), "sms"_a,
           "clock"_a, "bandwidth"_a)
      .def_readonly("sms", &Gpu::sms)
      .def_readonly("clock", &Gpu::clock)
      .def_readonly("bandwidth", &Gpu::bandwidth);
  py::class_<Sm120Plan>(m, "Sm120Plan", "How the SM120 matrix product runs.")
      .def(py::init([](int shape, int blocks, int whole, int group, bool tuned) {
             Sm120Plan plan;
             plan.shape = shape, plan.blocks = blocks, plan.whole = whole, plan.group = group, plan.tuned = tuned;
             return plan;
           }),
           "shape"_a, "blocks"_a, "whole"_a, "group"_a, "tuned"_a = false)
      .def_readonly("shape", &Sm120Plan::shape)
      .def_readonly("blocks", &Sm120Plan::blocks)
      .def_readonly("whole", &Sm120Plan::whole)
      .def_readonly("group", &Sm120Plan::group)
      .def_readonly("seconds", &Sm120Plan::seconds)
      .def_readonly("bound", &Sm120Plan::bound)
      .def_readonly("tuned", &Sm120Plan::tuned)
      .def_property_readonly(
          "name", [](const Sm120Plan& plan) { return sm120_shapes().at(static_cast<size_t>(plan.shape)).name; })
      .def("__repr__", &sm120_describe);
  m.def(
      "sm120_shapes",
      [] {
        std::vector<std::string> names;
        for (const Sm120Shape& shape : sm120_shapes()) names.emplace_back(shape.name);
        return names;
      },
      "Names of the SM120 matrix product's instances, in the order of their numbers.");
  m.def("sm120_refusal", &sm120_refusal, "plan"_a, "m"_a, "n"_a, "k"_a, "Why a plan cannot run, or an empty string.");
  m.def("sm120_candidates", &sm120_candidates, "m"_a, "n"_a, "k"_a, "gpu"_a, "Every plan worth timing.");
  m.def("sm120_predict", &sm120_predict, "plan"_a, "m"_a, "n"_a, "k"_a, "gpu"_a, "A plan with its predicted time.");
  m.def("sm120_choose", &sm120_choose, "m"_a, "n"_a, "k"_a, "gpu"_a, "The plan with the least predicted time.");
  m.def("sm120_partial_bytes", &sm120_partial_bytes, "plan"_a, "m"_a, "n"_a, "k"_a, "Bytes of a plan's partial sums.");
  m.def("sm120_arrivals", &sm120_arrivals, "plan"_a, "m"_a, "n"_a, "k"_a, "Counters of a plan, zero at its start.");
  m.def("units_bytes", &nvfp4::units_bytes, "n"_a, "k"_a, "Bytes of a weight [n, k] in n128k128 units.");
}
