"""How much memory an engine's activations will take, before it is built."""

from __future__ import annotations

from rest_deploy.artifact.profile import InputSize
from rest_deploy.models.config import ResTConfig
from rest_deploy.models.memory import stage_sizes
from rest_deploy.recipes import recipe_of
from rest_deploy.specs import Precision

#: Measured with TensorRT-RTX 1.7: scratch memory of a layer at the smallest sizes, which stands beside this many maps
#: of the first stage, and scratch memory beside the widest point.
_SCRATCH_BYTES, _SCRATCH_MAPS, _BESIDE_BYTES = 16 << 20, 5, 6 << 20


def estimate_activation_bytes(config: ResTConfig, largest: InputSize, precision: Precision) -> int:
    """Activation memory of an engine at its largest input, estimated.

    What is alive at the widest point of a block: the attention map before and after softmax beside three maps of
    tokens, or in the MLP its hidden layer before and after GELU beside two. Within 15% of what TensorRT-RTX 1.7 tells
    of FP32 engines from 1x224x224 to 1x1024x1024 and from 16x224x224 to 8x640x640 (tests/export/engine/test_memory.py).

    Args:
        config: Of the network.
        largest: Its largest input.
        precision: Of the engine.
    """
    stages = list(stage_sizes(config, largest.size.height, largest.size.width))
    first = stages[0].tokens * stages[0].dim
    widest = max(
        max(2 * stage.attention + 3 * stage.tokens * stage.dim, 2 * stage.tokens * (stage.dim + stage.hidden))
        for stage in stages
    )
    number = largest.batch * recipe_of(precision).engine_bytes
    return max(_SCRATCH_BYTES + _SCRATCH_MAPS * first * number, _BESIDE_BYTES + widest * number)
