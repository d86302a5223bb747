"""Measure social bias of instruction-following language models, find bias neurons, excise them.

    import excise

    result = excise.run(excise.resolve({"tasks": ["bbq-age"], "limit": 200}))
    with result.patch.applied(model):
        ...

Names are imported when they are first used, so that `import excise` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "RunConfig": "excise.config",
    "PRESETS": "excise.config",
    "resolve": "excise.config",
    "ExciseError": "excise.errors",
    "Instance": "excise.types",
    "Neuron": "excise.types",
    "Predictions": "excise.types",
    "Task": "excise.types",
    "load_task": "excise.tasks",
    "task_names": "excise.tasks",
    "load": "excise.models",
    "wrap": "excise.models",
    "predict": "excise.evaluation",
    "attribute": "excise.attribution",
    "METRICS": "excise.metrics",
    "Patch": "excise.patches",
    "RunResult": "excise.results",
    "run": "excise.pipeline",
}
__all__ = [
    "METRICS",
    "PRESETS",
    "ExciseError",
    "Instance",
    "Neuron",
    "Patch",
    "Predictions",
    "RunConfig",
    "RunResult",
    "Task",
    "__version__",
    "attribute",
    "load",
    "load_task",
    "predict",
    "resolve",
    "run",
    "task_names",
    "wrap",
]

if TYPE_CHECKING:
    from excise.attribution import attribute
    from excise.config import PRESETS, RunConfig, resolve
    from excise.errors import ExciseError
    from excise.evaluation import predict
    from excise.metrics import METRICS
    from excise.models import load, wrap
    from excise.patches import Patch
    from excise.pipeline import run
    from excise.results import RunResult
    from excise.tasks import load_task, task_names
    from excise.types import Instance, Neuron, Predictions, Task


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'excise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
