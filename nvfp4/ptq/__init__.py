"""Making a quantised model: `quantize_model` and its report."""

from nvfp4.ptq.quantization import quantize_model
from nvfp4.ptq.report import QuantizationReport, QuantizedModule

__all__ = ["QuantizationReport", "QuantizedModule", "quantize_model"]
