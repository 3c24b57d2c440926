"""Inference behind one seam (`base.Engine`): vLLM, transformers, an API, or a script."""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING

from selfalign.engines.base import Engine, EngineError
from selfalign.engines.hardware import trainer_environment, worker_environment

if TYPE_CHECKING:
    from selfalign.config import EngineSettings

__all__ = ["Engine", "EngineError", "open_engine", "trainer_environment", "worker_environment"]


def open_engine(model_path: str, settings: EngineSettings, *, trust_remote_code: bool = False) -> Engine:
    """Load a model into an engine. `settings.backend` "auto" is vLLM where it is installed, else transformers.

    `model_path` is a model folder, or the name of a Hugging Face model. Raises EngineError where it cannot be loaded.
    """
    if _backend(settings.backend) == "vllm":
        from selfalign.engines.vllm import VllmEngine

        return VllmEngine(model_path, settings, trust_remote_code=trust_remote_code)
    from selfalign.engines.transformers import TransformersEngine

    return TransformersEngine(model_path, settings, trust_remote_code=trust_remote_code)


def _backend(setting: str) -> str:
    if setting != "auto":
        return setting
    if importlib.util.find_spec("vllm") is not None:
        return "vllm"
    warnings.warn(
        "vLLM is not installed: the transformers engine answers instead, more slowly. Install the extra "
        "`selfalign[vllm]`, or set engine.backend to transformers",
        stacklevel=3,
    )
    return "transformers"
