"""Which network the weights of a checkpoint are of: its config, read off their shapes, and whether they fit a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rest_deploy.errors import CheckpointError, listed
from rest_deploy.models.config import MAX_BLOCKS, STAGES, ResTConfig


def infer_config(
    state_dict: Mapping[str, Tensor],
    source: str | Path = "state dict",
    *,
    num_heads: Sequence[int] | None = None,
    hint: str = "",
) -> ResTConfig:
    """Read the architecture off the shapes of a state dict with the authors' names.

    Args:
        state_dict: Of a ResT classifier.
        source: What an error calls it.
        num_heads: Heads of each stage, which the weights of a network whose heads do not interact leave open.
        hint: What an error adds where they are needed.

    Raises:
        CheckpointError: The keys are not those of a ResT, or do not tell the heads, or tell others.
    """
    try:
        stages = [f"stage{stage}.0" for stage in range(1, STAGES + 1)]
        depths = [_count_blocks(state_dict, f"stage{stage}.") for stage in range(1, STAGES + 1)]
        widths = [state_dict[f"{stage}.norm1.weight"].shape[0] for stage in stages]
        hidden = [state_dict[f"{stage}.mlp.fc1.weight"].shape[0] for stage in stages]
        reductions = [state_dict.get(f"{stage}.attn.sr.weight") for stage in stages]
        heads = _heads(state_dict, stages, source, num_heads, hint)
        return ResTConfig(
            embed_dims=tuple(widths),
            depths=tuple(depths),
            num_heads=heads,
            mlp_ratios=tuple(_ratio(h, w) for h, w in zip(hidden, widths, strict=True)),
            sr_ratios=tuple(1 if weight is None else weight.shape[-1] - 1 for weight in reductions),
            num_classes=state_dict["head.weight"].shape[0],
            in_channels=state_dict["stem.conv1.weight"].shape[1],
            apply_transform=heads_interact(state_dict) or max(heads) == 1,
        )
    except KeyError as exc:
        raise CheckpointError(
            f"{source}: the weights are not those of a ResT classifier: there is no {exc}, there are "
            f"{listed(sorted(state_dict))}; needed: a state dict with the authors' names, classifier head included"
        ) from exc
    except (ValueError, IndexError, ZeroDivisionError) as exc:  # ConfigError is a ValueError
        raise CheckpointError(f"{source}: the weights are not those of a ResT classifier: {exc}") from exc


def heads_interact(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the heads of any stage go through a convolution across them."""
    return any(key.endswith(".attn.transform_conv.weight") for key in state_dict)


def _heads(
    state_dict: Mapping[str, Tensor], stages: list[str], source: str | Path, given: Sequence[int] | None, hint: str
) -> tuple[int, ...]:
    """Heads of each stage.

    The authors' class has the convolution in every stage of several heads or in none, so a stage without one has one
    head if another stage has one, and any number if none has.
    """
    if not heads_interact(state_dict):
        if given is None:
            raise CheckpointError(
                f"{source}: no block has attn.transform_conv, so its heads do not interact and the weights do not tell "
                f"how many there are; say how many each stage has, as it was trained: --num-heads 1 2 4 8 "
                f"(num_heads=(1, 2, 4, 8)){hint}"
            )
        return tuple(given)
    mixing = [state_dict.get(f"{stage}.attn.transform_conv.weight") for stage in stages]
    heads = tuple(1 if weight is None else weight.shape[0] for weight in mixing)
    if given is not None and tuple(given) != heads:
        raise CheckpointError(
            f"{source}: its attn.transform_conv is of {' '.join(map(str, heads))} heads, "
            f"{' '.join(map(str, given))} were given; leave --num-heads out"
        )
    return heads


def _count_blocks(state_dict: Mapping[str, Tensor], stage: str) -> int:
    numbers = {int(key.split(".")[1]) for key in state_dict if key.startswith(stage)}
    if len(numbers) > MAX_BLOCKS:
        raise ValueError(f"{len(numbers)} blocks in {stage.rstrip('.')}; at most {MAX_BLOCKS} are read")
    if numbers != set(range(len(numbers))):
        raise ValueError(f"the blocks of {stage.rstrip('.')} are not numbered 0 to {len(numbers) - 1}")
    return len(numbers)


def _ratio(hidden: int, width: int) -> float:
    """A ratio of which the model, which rounds down, makes ``hidden`` channels again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def check_keys(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str | Path) -> None:
    """Compare a checkpoint's keys and shapes with a model's.

    Raises:
        CheckpointError: Lists missing, unexpected and mis-shaped keys, at most ten of each.
    """
    missing = [key for key in expected if key not in state_dict and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state_dict if key not in expected]
    shapes = [
        f"{key} has {tuple(state_dict[key].shape)}, the model {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state_dict and state_dict[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {what}: {listed(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
        if keys
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit the model; {'; '.join(problems)}")
