"""Train a small ResT on the digits of scikit-learn at mixed image sizes, on two CPU cores in a few minutes.

    python -m examples.digits.train
    python -m examples.digits.train --model restv2_digits

The weights go to ``rest_digits.safetensors`` and ``restv2_digits.safetensors`` beside this file. The held-out images
judge them once, at the end. ``--model rest_lite`` trains a network of real size on the same images, which takes some
forty times as long a pass.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from examples.digits.data import LABELS, Digits, Labels, load_split, render
from rest_deploy.models.checkpoint import save_checkpoint
from rest_deploy.models.factory import load_model
from rest_deploy.models.family import NetworkConfig, family_of, get_config, list_models
from rest_deploy.models.network import Network
from rest_deploy.models.rest_family import ResTConfig
from rest_deploy.models.restv2_family import ResTv2Config
from rest_deploy.specs import Preprocessing, Resize

_WIDTHS, _DEPTHS = (16, 32, 64, 128), (1, 1, 2, 1)
#: The small networks, by their names; others are of :func:`list_models`.
SMALL: dict[str, NetworkConfig] = {
    "rest_digits": ResTConfig(_WIDTHS, _DEPTHS, num_classes=len(LABELS)),
    "restv2_digits": ResTv2Config(_WIDTHS, _DEPTHS, num_classes=len(LABELS)),
}
PREPROCESSING = Preprocessing(resize=Resize.NATIVE, size=None, mean=(0.5,) * 3, std=(0.5,) * 3)

#: (height, width) of the evaluation. None of these heights and widths occurs in training.
EVAL_SIZES = ((48, 48), (64, 64), (73, 81), (96, 96), (57, 91))
#: Heights and widths of training batches, in pixels, drawn independently of each other. Odd ones are needed: a
#: convolution of stride 2 meets the border elsewhere in them, and a network that saw multiples of 8 only knew 99.7 % of
#: 300 training images at 64x64, and 85 % at 65x65.
TRAIN_SIDES = tuple(sorted(set(range(32, 113)) - {side for size in EVAL_SIZES for side in size}))

THREADS = 2
EVAL_BATCH = 90


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of the training."""

    epochs: int = 90
    batch: int = 64
    peak_lr: float = 2e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.06
    label_smoothing: float = 0.05
    ema_decay: float = 0.99
    max_grad_norm: float = 1.0
    batchnorm_momentum: float = 0.01
    batchnorm_frozen_from: float = 0.4  # share of the epochs, see freeze_batchnorm


def augment(pictures: Tensor, generator: Generator) -> Tensor:
    """(B, 3, H, W) with values 0 to 1 -> the same: moved, turned, slanted, scaled; then contrast and noise."""
    count = pictures.shape[0]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    angle = uniform(-0.21, 0.21)  # radians: 12 degrees
    scale_y, scale_x, slant = uniform(0.87, 1.15), uniform(0.87, 1.15), uniform(-0.12, 0.12)
    row_x = torch.stack((angle.cos() * scale_x, slant - angle.sin(), uniform(-0.16, 0.16)), dim=1)
    row_y = torch.stack((angle.sin(), angle.cos() * scale_y, uniform(-0.16, 0.16)), dim=1)
    grid = nn.functional.affine_grid(torch.stack((row_x, row_y), dim=1), list(pictures.shape), align_corners=False)
    moved = nn.functional.grid_sample(pictures, grid, padding_mode="zeros", align_corners=False)
    contrast = uniform(0.7, 1.15)[:, None, None, None]
    strength = uniform(0.0, 0.06)[:, None, None, None]
    noise = torch.randn((count, 1, *pictures.shape[2:]), generator=generator) * strength
    return (moved * contrast + noise).clamp(0.0, 1.0)


def pictures_of(images: Digits, size: tuple[int, int]) -> Tensor:
    """(B, 8, 8) digits -> float32 (B, 3, height, width) with values 0 to 1."""
    pixels = np.stack([render(image, size) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255.0


def normalize(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) with values 0 to 1 -> the network's input, as :data:`PREPROCESSING` says."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESSING.mean, PREPROCESSING.std))
    return (pictures - mean) / std


def batches(images: Digits, labels: Labels, size: int, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented batches in random order, each at its own height and width; a remainder is left out."""
    order = torch.randperm(len(images), generator=generator).numpy()
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        height, width = (TRAIN_SIDES[int(i)] for i in torch.randint(len(TRAIN_SIDES), (2,), generator=generator))
        pictures = augment(pictures_of(images[chosen], (height, width)), generator)
        yield normalize(pictures), torch.from_numpy(labels[chosen])


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(images: Digits, labels: Labels, recipe: Recipe, seed: int, config: NetworkConfig) -> Network:
    """Train from scratch and return the averaged model in eval mode."""
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    model = family_of(config).network()(config).train()
    for norm in _batchnorms(model):
        norm.momentum = recipe.batchnorm_momentum
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
    optimizer = _optimizer(model, recipe)
    steps = recipe.epochs * (len(images) // recipe.batch)
    warmup = max(1, round(steps * recipe.warmup_share))
    schedule = LambdaLR(optimizer, lambda step: learning_rate(step, steps, warmup))
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    started = time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        if epoch > recipe.epochs * recipe.batchnorm_frozen_from:
            freeze_batchnorm(model)
        losses = []
        for inputs, targets in batches(images, labels, recipe.batch, generator):
            loss = criterion(model(inputs), targets)
            _step(model, optimizer, loss, recipe.max_grad_norm)
            schedule.step()
            average.update_parameters(model)
            losses.append(loss.item())
        elapsed_s = time.monotonic() - started
        print(f"epoch {epoch:3d}/{recipe.epochs}  loss {np.mean(losses):.4f}  {elapsed_s:5.0f} s", flush=True)
    model.load_state_dict(average.module.state_dict())
    return model.eval()


def freeze_batchnorm(model: Network) -> None:
    """Let BatchNorm use its running statistics from here on, as it will in use.

    Each batch has one image size, and the statistics differ from size to size. A network trained to the end on those of
    its batch ended at a loss near its floor, yet in eval mode missed a fifth of the training images at 32x32.
    """
    for norm in _batchnorms(model):
        norm.eval()


def _batchnorms(model: Network) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def _step(model: Network, optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()


def _optimizer(model: Network, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, and leaves biases and the parameters of normalisation alone."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.peak_lr)


@torch.inference_mode()
def logits_of(model: Network, images: Digits, size: tuple[int, int]) -> Tensor:
    """(B, 8, 8) digits -> float32 (B, 10) logits of the digits rendered at ``(height, width)``."""
    inputs = normalize(pictures_of(images, size))
    return torch.cat([model(batch) for batch in inputs.split(EVAL_BATCH)])


def print_accuracy(model: Network, images: Digits, labels: Labels) -> None:
    """Print, for each evaluation size, how many are right and how far the nearest second class is, in logits."""
    print("height x width       right   accuracy   margin: least   1 % quantile   median")
    for height, width in EVAL_SIZES:
        logits = logits_of(model, images, (height, width))
        right = int((logits.argmax(dim=1) == torch.from_numpy(labels)).sum())
        first, second = logits.topk(2, dim=1).values.unbind(dim=1)
        least, low, median = (first - second).quantile(torch.tensor([0.0, 0.01, 0.5])).tolist()
        accuracy = f"{right:5d}/{len(labels)}   {right / len(labels):8.2%}"
        print(f"{height:6d} x {width:<5d}   {accuracy}   {least:13.3f}   {low:12.3f}   {median:6.3f}")


def save(model: Network, output: Path, probe: Digits, name: str) -> Network:
    """Write the checkpoint and return the model read back from it.

    Raises:
        RuntimeError: What was read back gives other logits on the probe images.
    """
    save_checkpoint(output, model, name=name, labels=LABELS, preprocessing=PREPROCESSING, activation="softmax")
    loaded = load_model(None, output).model
    if not torch.equal(logits_of(model, probe, EVAL_SIZES[0]), logits_of(loaded, probe, EVAL_SIZES[0])):
        raise RuntimeError(f"{output} was written, but gives other logits than the trained model")
    return loaded


def train_and_save(model: str, output: Path, epochs: int | None = None, seed: int = 0, threads: int = THREADS) -> Path:
    """Train a network on the digits, print how, and write its checkpoint.

    Args:
        model: A name of :data:`SMALL` or of ``list_models``.
        output: ``.safetensors`` file.
        epochs: Passes over the data; None for the recipe's.
        seed: Of weights, order and augmentation.
        threads: Of PyTorch; another number rounds differently.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    train_images, train_labels, test_images, test_labels = load_split()
    config = SMALL[model] if model in SMALL else replace(get_config(model), num_classes=len(LABELS))
    recipe = Recipe() if epochs is None else Recipe(epochs=epochs)
    started = time.monotonic()
    trained = train(train_images, train_labels, recipe, seed, config)
    print(f"trained in {time.monotonic() - started:.0f} s")
    name = model if model in SMALL else f"{model}_digits"
    loaded = save(trained, output, probe=train_images[:EVAL_BATCH], name=name)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB; on {len(test_labels)} held-out images:")
    print_accuracy(loaded, test_images, test_labels)
    return output


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a ResT on the digits of scikit-learn.")
    models = (*SMALL, *list_models())
    parser.add_argument("--model", choices=models, default="rest_digits", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help="passes over the data (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=THREADS, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="default: MODEL.safetensors beside this file")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    output = args.output or Path(__file__).with_name(f"{args.model}.safetensors")
    train_and_save(args.model, output, args.epochs, args.seed, args.threads)


if __name__ == "__main__":
    main()
