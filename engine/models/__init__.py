"""Models: from a name to a directory, and what a checkpoint will need.

`resolve` finds or fetches a model; `find_facts` reads what it is; `plan_memory` says whether a
configuration of it fits a machine. Importing this loads neither torch nor transformers.
"""

from engine.models.adapters import check_adapter, resolve_adapter
from engine.models.embedded import cache_root, embedded_directory
from engine.models.errors import ModelError
from engine.models.facts import CheckpointFacts, find_facts, parse_facts, read_facts
from engine.models.memory import Hardware, MemoryPlan, kv_bytes_per_token, plan_memory
from engine.models.progress import ConsoleProgress, Progress, Track
from engine.models.quantization import Quantization
from engine.models.resolution import ResolvedModel, resolve
from engine.models.weights import device_weight_bytes

__all__ = [
    "CheckpointFacts",
    "ConsoleProgress",
    "Hardware",
    "MemoryPlan",
    "ModelError",
    "Progress",
    "Quantization",
    "ResolvedModel",
    "Track",
    "cache_root",
    "check_adapter",
    "device_weight_bytes",
    "embedded_directory",
    "find_facts",
    "kv_bytes_per_token",
    "parse_facts",
    "plan_memory",
    "read_facts",
    "resolve",
    "resolve_adapter",
]
