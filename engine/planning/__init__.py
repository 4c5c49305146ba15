"""Planning: which precision of a model fits a device, and how fast it runs there.

Memory is what `engine.models.plan_memory` says; time is a roofline, with every share and rate
named. `make_plan` puts the two together. Importing this loads neither torch nor transformers.
"""

from engine.planning.cpu import Machine, measure
from engine.planning.devices import GPUS, NAMES, Device, find_gpu
from engine.planning.errors import PlanError
from engine.planning.plan import Plan, Row, make_plan
from engine.planning.platforms import Platform, cpu_platform, gpu_platform
from engine.planning.precisions import PRECISIONS, Precision, find_precisions
from engine.planning.roofline import Ceilings, Load, Prediction, Rates, predict
from engine.planning.shapes import Reached, Shapes, shapes_of

__all__ = [
    "GPUS",
    "NAMES",
    "PRECISIONS",
    "Ceilings",
    "Device",
    "Load",
    "Machine",
    "Plan",
    "PlanError",
    "Platform",
    "Precision",
    "Prediction",
    "Rates",
    "Reached",
    "Row",
    "Shapes",
    "cpu_platform",
    "find_gpu",
    "find_precisions",
    "gpu_platform",
    "make_plan",
    "measure",
    "predict",
    "shapes_of",
]
