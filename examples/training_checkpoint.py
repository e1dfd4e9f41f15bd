"""A checkpoint as training scripts save it: `python -m examples.training_checkpoint FILE`, for docs/tour.md.

It holds what those of DeiT, ConvNeXt and ResTv2 save: the weights under `model`, their moving average under
`model_ema`, the optimizer's state, the epoch, and the arguments as an `argparse.Namespace`; DataParallel has put
`module.` before each name. The weights are those of the digits model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from rest_deploy import create_model
from rest_deploy.models.factory import load_model

DIGITS = Path(__file__).parent / "digits" / "rest_digits.safetensors"


def main() -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    average = load_model(None, DIGITS).model
    model = create_model(average.config, DIGITS).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    model(torch.randn((4, 3, 48, 48), generator=generator)).square().mean().backward()
    optimizer.step()
    torch.save(
        {
            "model": torch.nn.DataParallel(model).state_dict(),
            "model_ema": torch.nn.DataParallel(average).state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0},
            "epoch": 59,
            "args": argparse.Namespace(model="rest_digits", lr=1e-4, epochs=60, output_dir=output.parent),
        },
        output,
    )
    print(f"{output}: model and model_ema, {output.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
