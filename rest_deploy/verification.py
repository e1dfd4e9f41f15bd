"""Is an artifact the model it was made from? Measuring first, judging by a table of tolerances after.

The reference is the PyTorch model, as its authors wrote it, in float64. The yardstick is what the same PyTorch model
loses in float32, measured in the same run on the same images: some weights amplify rounding a thousandfold, and an
artifact is not to blame for what its model does too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.profile import InputSize, Profile, narrowest
from rest_deploy.errors import ConfigError, MissingPackageError, VerificationError
from rest_deploy.specs import ImageSize, Precision

Run = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]


#: A batch of images of one size.
Case = InputSize

#: Odd and even, square and not, tiny and large, one image and several, and no size that the exporter traces with.
CASES = (
    Case(1, ImageSize(224, 224)),
    Case(3, ImageSize(20, 27)),
    Case(1, ImageSize(1, 1)),
    Case(3, ImageSize(97, 131)),
    Case(1, ImageSize(200, 333)),
    Case(1, ImageSize(512, 544)),
)


def cases_within(profiles: Sequence[Profile]) -> tuple[Case, ...]:
    """Those of :data:`CASES` that an engine accepts, and the smallest and the tuned size of each of its profiles."""
    ends = [end for profile in profiles for end in (profile.min, profile.opt)]
    fitting = [case for case in CASES if narrowest(profiles, case) is not None]
    return tuple(dict.fromkeys([*fitting, *ends]))


@dataclass(frozen=True)
class Tolerance:
    """How far from the reference is near enough.

    Args:
        noise_factor: Largest error allowed, in units of PyTorch float32's own largest error on the same images.
        floor: Largest error always allowed, relative to the largest logit or to 1, whichever is more.
        reason: Why these.
    """

    noise_factor: float
    floor: float
    reason: str


TOLERANCES: Mapping[Precision, Tolerance] = MappingProxyType(
    {
        Precision.FP32: Tolerance(
            2.0,
            5e-5,
            "two float32 computations of one function differ by rounding alone, so by about what either loses; the "
            "floor is for cases in which PyTorch is exact by luck, as on an image of one pixel, and grows with the "
            "logits because float32's steps do",
        ),
    }
)


@dataclass(frozen=True)
class CaseFigures:
    """What was measured in one case. Errors are absolute differences of logits from the float64 reference.

    Args:
        batch, height, width: The case.
        max_error, mean_error: Of the artifact.
        reference_error: Largest, of the PyTorch model in float32.
        logit_scale: Largest absolute logit of the reference.
        cosine: Smallest cosine between an image's logits and the reference's.
        top1_agreement: Share of images with the reference's best class.
        top5_agreement: Mean share of the reference's five best classes that are among the artifact's.
    """

    batch: int
    height: int
    width: int
    max_error: float
    mean_error: float
    reference_error: float
    logit_scale: float
    cosine: float
    top1_agreement: float
    top5_agreement: float

    def limit(self, tolerance: Tolerance) -> float:
        """Largest error that a tolerance allows here."""
        return max(tolerance.noise_factor * self.reference_error, tolerance.floor * max(1.0, self.logit_scale))


@dataclass(frozen=True)
class Comparison:
    """Figures of all cases, and the judgement of a tolerance on them."""

    precision: Precision
    seed: int
    cases: tuple[CaseFigures, ...]

    @property
    def failures(self) -> list[str]:
        """Cases past the tolerance of the precision, in words."""
        tolerance = TOLERANCES[self.precision]
        return [
            f"{c.batch}x{c.height}x{c.width}: largest error {c.max_error:.3g} is over {c.limit(tolerance):.3g}"
            for c in self.cases
            if not c.max_error <= c.limit(tolerance)  # so that NaN fails
        ]

    @property
    def passed(self) -> bool:
        """Whether every case is within the tolerance."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "reference": "PyTorch float64",
            "passed": self.passed,
            "seed": self.seed,
            "cases": [asdict(case) for case in self.cases],
        }

    def table(self) -> str:
        """The figures as text, a line a case."""
        tolerance = TOLERANCES[self.precision]
        head = "  batch x size  max error mean error PyTorch fp32   allowed      cosine  top-1  top-5"
        rows = [
            f"{f'{c.batch} x {c.height}x{c.width}':>14} {c.max_error:10.2e} {c.mean_error:10.2e} "
            f"{c.reference_error:12.2e} {c.limit(tolerance):9.1e} {c.cosine:11.9f} "
            f"{c.top1_agreement:6.1%} {c.top5_agreement:6.1%}"
            for c in self.cases
        ]
        return "\n".join([head, *rows])


def measure(
    candidate: Run,
    reference: Run,
    yardstick: Run,
    *,
    channels: int,
    precision: Precision,
    cases: Sequence[Case] = CASES,
    seed: int = 0,
) -> Comparison:
    """Run an artifact, its reference and the yardstick on the same images.

    Args:
        candidate: The artifact; float32 (B, channels, H, W) -> (B, classes).
        reference: The same in float64.
        yardstick: The reference's model in float32.
        channels: Channels of the images.
        precision: By which the comparison is to be judged.
        cases: Batches and sizes.
        seed: Of the images.
    """
    rng = np.random.default_rng(seed)
    figures = []
    for case in cases:
        batch = synthetic_images(rng, case, channels)
        exact = np.asarray(reference(batch), np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # an artifact that gives no numbers fails, without noise
            figures.append(
                _figures(case, np.asarray(candidate(batch), np.float64), exact, np.asarray(yardstick(batch)))
            )
    return Comparison(precision, seed, tuple(figures))


def synthetic_images(rng: np.random.Generator, case: Case, channels: int) -> NDArray[np.float32]:
    """Normalised images with both coarse and fine structure, float32 of shape (B, channels, H, W)."""
    height, width = case.size.height, case.size.width
    shape = (case.batch, channels)
    coarse = rng.standard_normal((*shape, -(-height // 16), -(-width // 16)))
    coarse = coarse.repeat(16, axis=2).repeat(16, axis=3)[..., :height, :width]
    return (coarse + 0.5 * rng.standard_normal((*shape, height, width))).astype(np.float32)


def _figures(case: Case, ours: NDArray[np.float64], exact: NDArray[np.float64], yardstick: NDArray[Any]) -> CaseFigures:
    if ours.shape != exact.shape:
        raise VerificationError(f"{case}: the artifact gives logits of shape {ours.shape}, the reference {exact.shape}")
    error = np.abs(ours - exact)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(exact, axis=1)
    best = min(5, exact.shape[1])
    top, top_exact = np.argsort(-ours, axis=1)[:, :best], np.argsort(-exact, axis=1)[:, :best]
    shared = [len(set(a) & set(b)) / best for a, b in zip(top.tolist(), top_exact.tolist(), strict=True)]
    return CaseFigures(
        batch=case.batch,
        height=case.size.height,
        width=case.size.width,
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        reference_error=float(np.abs(yardstick - exact).max()),
        logit_scale=float(np.abs(exact).max()),
        cosine=float(((ours * exact).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)).min()),
        top1_agreement=float((top[:, 0] == top_exact[:, 0]).mean()),
        top5_agreement=float(np.mean(shared)),
    )


def require(comparison: Comparison, name: str) -> None:
    """Raise unless a comparison passed.

    Raises:
        VerificationError: Names the cases that are past the tolerance.
    """
    if not comparison.passed:
        raise VerificationError(f"{name} disagrees with the PyTorch model; {'; '.join(comparison.failures)}")


def verify(
    artifact: str | Path,
    reference: str | Path,
    *,
    device: str | None = None,
    cases: Sequence[Case] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare an artifact with the checkpoint it was made from, on synthetic images of many sizes.

    Args:
        artifact: What :class:`Predictor` opens.
        reference: ``.pth``, ``.pt`` or ``.safetensors`` checkpoint.
        device: Where the artifact runs; None for the CPU, of an engine for the first GPU. The reference runs on the
            CPU.
        cases: Batches and sizes; None for :data:`CASES`, of an engine for those that it accepts.
        seed: Of the images.

    Returns:
        The figures; ``passed`` and ``failures`` judge them.

    Raises:
        ConfigError: The two are of different shapes.
        RestDeployError: One of them cannot be opened.
    """
    if cases is not None and not cases:
        raise ConfigError("no cases were given; a comparison needs at least one")
    try:
        from rest_deploy.models.factory import load_model
        from rest_deploy.models.reference import reference_runs
    except ModuleNotFoundError as exc:
        raise MissingPackageError(exc.name or "torch", "run the reference", "export") from exc
    from rest_deploy.runtimes.registry import open_runtime

    with open_runtime(artifact, device) as runtime:
        model = load_model(None, reference).model
        config, info = model.config, runtime.info
        if (config.in_channels, config.num_classes) != (info.input.shape[1], info.num_classes):
            raise ConfigError(
                f"{artifact} has {info.input.shape[1]} channels and {info.num_classes} classes, "
                f"{reference} {config.in_channels} and {config.num_classes}; give the checkpoint it was made from"
            )
        exact, plain = reference_runs(model)
        if cases is None:
            cases = CASES if info.engine is None else cases_within(info.engine.profiles)
        return measure(
            runtime.run, exact, plain, channels=config.in_channels, precision=info.precision, cases=cases, seed=seed
        )
