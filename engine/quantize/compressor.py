"""llm-compressor's side: a model and calibration in, a compressed-tensors checkpoint out.

Runs in the quantizing process only, where llm-compressor can be imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader

from engine.quantize.settings import Settings

Report = Callable[[int, int], None]

# Of the layers of a decoder; embeddings and the output head stay as they are.
_TARGETS, _IGNORED = ["Linear"], ["lm_head"]
# Scales that AWQ tries for every layer. On a CPU a quarter of the usual, in a quarter of the time.
_AWQ_GRID, _AWQ_GRID_ON_CPU = 20, 5
_SMOOTHING = 0.8
_SCHEMES = {"w8a8": "W8A8", "fp8": "FP8_DYNAMIC"}


def compress(
    model: Any, tokenizer: Any, settings: Settings, sequences: list[list[int]], report: Report
) -> None:
    """Quantize `model` in place. After every part `report` hears how many of how many are done."""
    _stand_in_for_datasets()
    from llmcompressor import oneshot

    if not torch.accelerator.is_available():
        _keep_memory_unpinned()
    data = {"dataset": _loader(sequences)} if sequences else {}
    oneshot(
        model=model,
        processor=tokenizer,
        recipe=[*_recipe(settings), _reporter(report, model.config.num_hidden_layers + 1)],
        # One pass for all modifiers, so that each layer is finished before the next one.
        pipeline="sequential" if sequences else "datafree",
        **data,
    )


def save(model: Any, target: Path) -> None:
    """Write config and compressed weights; the recipe is said in our own report."""
    model.save_pretrained(target, save_compressed=True)
    (target / "recipe.yaml").unlink(missing_ok=True)


def _recipe(settings: Settings) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform import SmoothQuantModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    match settings.method:
        case "awq":
            groups = _int4(settings, symmetric=False)
            rounding = QuantizationModifier(config_groups=groups, ignore=_IGNORED)
            grid = _AWQ_GRID if torch.accelerator.is_available() else _AWQ_GRID_ON_CPU
            return [AWQModifier(n_grid=grid), rounding]
        case "gptq":
            groups = _int4(settings, symmetric=True)
            return [GPTQModifier(config_groups=groups, ignore=_IGNORED)]
    scheme = _SCHEMES[settings.method]
    rounding = QuantizationModifier(targets=_TARGETS, scheme=scheme, ignore=_IGNORED)
    if settings.smoothquant:
        return [SmoothQuantModifier(smoothing_strength=_SMOOTHING), rounding]
    return [rounding]


def _int4(settings: Settings, *, symmetric: bool) -> dict[str, Any]:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weights = QuantizationArgs(
        num_bits=4,
        type="int",
        symmetric=symmetric,
        strategy="group",
        group_size=settings.group_size,
    )
    return {"group_0": QuantizationScheme(targets=_TARGETS, weights=weights)}


def _loader(sequences: list[list[int]]) -> Any:
    rows = [torch.tensor(tokens) for tokens in sequences]
    samples = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
    return DataLoader(samples, batch_size=1)


def _reporter(report: Report, total: int) -> Any:
    """A modifier that changes nothing and hears of every finished part of the model."""
    from llmcompressor.modifiers import Modifier

    finished = 0

    class Reporter(Modifier):  # type: ignore[misc]
        def on_initialize(self, state: Any, **_: Any) -> bool:
            return True

        def on_sequential_epoch_end(self, state: Any, event: Any, **_: Any) -> None:
            nonlocal finished
            finished += 1
            report(finished, max(total, finished))

    return Reporter()


def _keep_memory_unpinned() -> None:
    """AWQ pins what it caches, for faster copies to a GPU; where there is none torch refuses."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    IntermediatesCache.pin_memory = lambda *_, **__: None


def _stand_in_for_datasets() -> None:
    """llm-compressor imports `datasets` for the types of data sets it could load by name. It is
    given token sequences here, so these names stand for 300 MB of packages."""
    datasets = ModuleType("datasets")
    formatting = ModuleType("datasets.formatting")
    rows = ModuleType("datasets.formatting.formatting")
    for module, names in (
        (datasets, ("Dataset", "DatasetDict", "IterableDataset", "load_dataset")),
        (rows, ("LazyRow",)),
        (formatting, ()),
    ):
        module.__spec__ = ModuleSpec(module.__name__, None)
        module.__path__ = []
        for name in names:
            setattr(module, name, type(name, (), {}))
        sys.modules[module.__name__] = module
