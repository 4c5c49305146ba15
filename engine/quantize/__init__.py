"""Quantization: an unquantized checkpoint in, one that vLLM serves in 4 or 8 bits out.

`choose_settings` makes a valid choice, `quantize` carries it out in a process of its own. Importing
this loads neither torch nor llm-compressor.
"""

from engine.quantize.calibration import Calibration, default_calibration, read_calibration
from engine.quantize.errors import QuantizeError, SettingsError
from engine.quantize.quantizing import check_output, quantize
from engine.quantize.settings import FORMATS, METHODS, Format, Method, Settings, choose_settings

__all__ = [
    "FORMATS",
    "METHODS",
    "Calibration",
    "Format",
    "Method",
    "QuantizeError",
    "Settings",
    "SettingsError",
    "check_output",
    "choose_settings",
    "default_calibration",
    "quantize",
    "read_calibration",
]
