"""What networks are measured against: answers to synthetic and to real images, computed once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.artifact.engine import LogitsCase
from rest_deploy.artifact.info import PIXEL_CHANNELS, ArtifactInfo
from rest_deploy.artifact.profile import InputSize, Profile, narrowest
from rest_deploy.errors import ConfigError, VerificationError
from rest_deploy.preprocess.transform import orders_by_result, transform
from rest_deploy.recipes import Limits
from rest_deploy.specs import LOGITS, STAGE_STRIDES, ImageSize, InputKind, Preprocessing, Resize
from rest_deploy.verification.figures import (
    LogitFigures,
    Outputs,
    ValueFigures,
    joined,
    largest_errors,
    measure_logits,
    measure_outputs,
    measure_values,
)
from rest_deploy.verification.limits import judge, judge_values

#: float32 (B, channels, H, W), or pictures where an artifact takes those -> outputs by name
Run = Callable[[NDArray[Any]], Outputs]

#: A batch of images of one size.
Case = InputSize

#: Odd and even, square and not, tiny and large, one image and several; the exporter traces with none of these sizes.
CASES = (
    Case(1, ImageSize(224, 224)),
    Case(3, ImageSize(20, 27)),
    Case(1, ImageSize(1, 1)),
    Case(3, ImageSize(97, 131)),
    Case(1, ImageSize(200, 333)),
    Case(1, ImageSize(512, 544)),
)


#: Pictures that a file resizes itself: one pixel, odd ones, several at once, long ones, and one of 12 megapixels.
PICTURES = (
    Case(1, ImageSize(1, 1)),
    Case(3, ImageSize(20, 27)),
    Case(2, ImageSize(333, 500)),
    Case(1, ImageSize(1080, 1920)),
    Case(1, ImageSize(31, 1013)),
    Case(1, ImageSize(2000, 90)),
    Case(1, ImageSize(3000, 4000)),
)


def cases_of(info: ArtifactInfo) -> tuple[Case, ...]:
    """Batches and sizes that an artifact is checked at where none are asked for."""
    cases = PICTURES if info.resizes else CASES
    return cases if info.engine is None else cases_within(info.engine.profiles, cases)


def cases_within(profiles: Sequence[Profile], cases: Sequence[Case] = CASES) -> tuple[Case, ...]:
    """Those that an engine accepts, and the smallest and the tuned size of each of its profiles."""
    ends = [end for profile in profiles for end in (profile.min, profile.opt)]
    fitting = [case for case in cases if narrowest(profiles, case) is not None]
    return tuple(dict.fromkeys([*fitting, *ends]))


#: Callers pad images for maps to multiples of the largest stride, with zeros at the right and at the bottom. If a case
#: has such a size, this many rows and columns are zeros.
_PADDING = 24


def synthetic_images(
    rng: np.random.Generator, case: Case, channels: int, *, padded: bool = False
) -> NDArray[np.float32]:
    """Normalised images with both coarse and fine structure, float32 of shape (B, channels, H, W).

    Args:
        rng: Of the values.
        case: Batch and size.
        channels: Of the images.
        padded: Whether images with sides that are multiples of 32 are smaller ones that were padded.
    """
    height, width = case.size.height, case.size.width
    shape = (case.batch, channels)
    coarse = rng.standard_normal((*shape, -(-height // 16), -(-width // 16)))
    coarse = coarse.repeat(16, axis=2).repeat(16, axis=3)[..., :height, :width]
    images = (coarse + 0.5 * rng.standard_normal((*shape, height, width))).astype(np.float32)
    if padded and height % STAGE_STRIDES[-1] == width % STAGE_STRIDES[-1] == 0:
        images[:, :, height - _PADDING :] = images[:, :, :, width - _PADDING :] = 0
    return images


#: uint8 (B, height, width, 3) -> the network's input
Transform = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def pictures_of(info: ArtifactInfo) -> Transform | None:
    """What an artifact does with pictures, by Pillow; None where it takes the network's input.

    An engine computes the resize in float32, and a level in a thousand may be off (``export/pixels.py``): its network
    is judged by what the same graph gives in ONNX Runtime. Its record says how far that is from Pillow (``levels``).

    Raises:
        ConfigError: It was made with a Pillow that goes through tall pictures in another order than the one here.
    """
    steps, kind = info.preprocessing, info.input_kind
    if kind is InputKind.FLOAT or steps is None:
        return None
    made = info.versions.get("PIL", PIL.__version__)
    if info.resizes and orders_by_result(made) != orders_by_result(PIL.__version__):
        raise ConfigError(
            f"it resizes pictures as Pillow {made} does, and {PIL.__version__} here goes through tall ones in another "
            f"order; install pillow=={made}, or export it again with this one"
        )
    if info.engine is None:
        return lambda pictures: np.stack([_transformed(Image.fromarray(own), steps, kind) for own in pictures])
    from rest_deploy.export.cpu_session import CpuSession
    from rest_deploy.export.pixels import as_graph

    run = CpuSession(as_graph(steps, kind, exact=False)).run
    return lambda pictures: next(iter(run(pictures).values()))


def _transformed(picture: Image.Image, steps: Preprocessing, kind: InputKind) -> NDArray[np.float32]:
    """The network's input; without a resize if the picture was resized before."""
    return transform(picture, steps if kind is InputKind.PIXELS else replace(steps, resize=Resize.NATIVE, size=None))


def synthetic_pictures(rng: np.random.Generator, case: Case) -> NDArray[np.uint8]:
    """Pictures with both coarse and fine structure, uint8 of shape (B, height, width, 3)."""
    images = synthetic_images(rng, case, PIXEL_CHANNELS)
    return np.clip(127.5 + 60 * images, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1).copy()


@dataclass(frozen=True)
class CaseFigures:
    """What was measured in one case, of each output by its name."""

    case: Case
    outputs: Mapping[str, LogitFigures | ValueFigures]

    def rows(self, limits: Limits | None = None) -> list[dict[str, Any]]:
        """What a record says of each output; with limits, also what is allowed of it."""
        return [
            self._row(name, own) | (_judged(own, limits) if limits is not None else {})
            for name, own in self.outputs.items()
        ]

    def _row(self, name: str, figures: LogitFigures | ValueFigures) -> dict[str, Any]:
        sizes = dict(zip(("batch", "height", "width"), self.case.sizes, strict=True))
        if isinstance(figures, ValueFigures):
            return {"output": name, **sizes, **asdict(figures)}
        named = {"output": name} if self.named(name) else {}
        left = [key for key in LogitsCase.__annotations__ if key not in ("output", *sizes)]
        return {**named, **sizes, **{key: getattr(figures, key) for key in left}}

    def named(self, output: str) -> str:
        """The name of an output; nothing of the logits alone."""
        return output if self.others else ""

    @property
    def others(self) -> bool:
        """Whether there are other outputs than logits."""
        return set(self.outputs) != {LOGITS}


def _judged(figures: LogitFigures | ValueFigures, limits: Limits) -> dict[str, Any]:
    if isinstance(figures, ValueFigures):
        return asdict(judge_values(figures, limits))
    return {"limit": limits.allowed(figures), "passed": not judge(figures, limits)}


@dataclass(frozen=True)
class Comparison:
    """Figures of all cases, and what judges them.

    Args:
        seed: Of the images.
        cases: The figures.
        limits: What is allowed of them.
    """

    seed: int
    cases: tuple[CaseFigures, ...]
    limits: Limits

    @property
    def failures(self) -> list[str]:
        """Cases that are past the limits, in words."""
        return [
            f"{' '.join(filter(None, (str(own.case), own.named(name))))}: {reason}"
            for own in self.cases
            for name, figures in own.outputs.items()
            for reason in judge(figures, self.limits)
        ]

    @property
    def passed(self) -> bool:
        """Whether every case is within the limits."""
        return not self.failures

    @property
    def others(self) -> bool:
        """Whether there are other outputs than logits."""
        return any(own.others for own in self.cases)

    def to_dict(self) -> dict[str, Any]:
        """What a record says of it."""
        cases = [row for figures in self.cases for row in figures.rows()]
        return {"reference": "PyTorch float64", "passed": self.passed, "seed": self.seed, "cases": cases}

    def require(self, name: str) -> None:
        """Raise unless every case is within the limits.

        Raises:
            VerificationError: Names the cases that are not.
        """
        if not self.passed:
            raise VerificationError(f"{name} disagrees with the PyTorch model; {'; '.join(self.failures)}")

    @property
    def _relative(self) -> bool:
        """Whether errors are judged by PyTorch's own in float32; of lower precision the ratio says nothing."""
        return not self.limits.max_error

    def columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The figures as texts: names of the columns that have any, and a row for each case and output."""
        several = self.others
        more, ratio = ("rms error", "max / std") if several else (), ("ratio",) if self._relative else ()
        head = ("batch x size", *(("output",) if several else ()), "max error", "mean error",
                *more, "fp32 error", *ratio, "limit", "cosine", "KL", "top-1", "top-5")  # fmt: skip
        rows = [self._row(own, name, several) for own in self.cases for name in own.outputs]
        shown = [i for i in range(len(head)) if not several or any(row[i] != "-" for row in rows)]
        return tuple(head[i] for i in shown), [tuple(row[i] for i in shown) for row in rows]

    def _row(self, case: CaseFigures, name: str, several: bool) -> tuple[str, ...]:
        own = case.outputs[name]
        verdict = judge_values(own, self.limits) if isinstance(own, ValueFigures) else None
        limit = verdict.limit if verdict is not None else self.limits.allowed(own)
        by_rms = verdict is not None and verdict.judged_by == "rms_error"

        def text(field: str, form: str) -> str:
            return format(getattr(own, field), form) if hasattr(own, field) else "-"

        return (
            f"{case.case.batch} x {case.case.size}",
            *((name,) if several else ()),
            f"{own.max_error:.2e}",
            text("mean_error", ".2e"),
            *((f"{own.rms_error:.2e}", f"{own.max_error / (own.std or 1.0):.2e}") if several else ()),
            f"{own.reference_error:.2e}" if own.reference_error is not None else "-",
            *(
                (f"{own.max_error / own.reference_error:.2f}" if own.reference_error else "-",)
                if self._relative
                else ()
            ),
            f"{limit:.1e}{' rms' if by_rms else ''}",
            text("cosine", ".9f"),
            text("kl_divergence", ".1e"),
            text("top1_agreement", ".1%"),
            text("top5_agreement", ".1%"),
        )


@dataclass(frozen=True)
class _Known:
    """A case, its images as the artifact and as the network take them, their exact outputs, the baseline's errors."""

    case: Case
    images: NDArray[Any]
    inputs: NDArray[np.float32]
    exact: Outputs
    lost: Mapping[str, float] | None


class Reference:
    """What a network must give on synthetic images.

    Args:
        exact: The network in float64, or what stands for it.
        baseline: The network in float32; None if there is none.
        channels: Of the images.
        cases: Batches and sizes.
        seed: Of the images.
        padded: Whether some of the images are padded, as callers do for maps.
        pictures: Where images are pictures, what makes the network's input of them.
    """

    def __init__(
        self,
        exact: Run,
        baseline: Run | None,
        *,
        channels: int,
        cases: Sequence[Case] = CASES,
        seed: int = 0,
        padded: bool = False,
        pictures: Transform | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        self._seed = seed
        self._known = []
        for case in cases:
            if pictures is None:
                images: NDArray[Any] = synthetic_images(rng, case, channels, padded=padded)
                inputs = images
            else:
                images = synthetic_pictures(rng, case)
                inputs = pictures(images)
            outputs = exact(inputs)
            self._known.append(_Known(case, images, inputs, outputs, losses(baseline, inputs, outputs)))

    def measured_by(self, baseline: Run | None) -> Reference:
        """The same images and exact outputs beside another baseline."""
        other = copy(self)
        other._known = [replace(known, lost=losses(baseline, known.inputs, known.exact)) for known in self._known]
        return other

    def images(self, case: Case) -> NDArray[Any] | None:
        """The images of a case; None if the reference does not have the case."""
        return next((known.images for known in self._known if known.case == case), None)

    def compare(self, candidate: Run, limits: Limits, *, cases: Sequence[Case] | None = None) -> Comparison:
        """Measure a network.

        Args:
            candidate: The network.
            limits: What is allowed.
            cases: The cases of the reference that it takes; None for all.

        Raises:
            VerificationError: It gives other outputs, or of other shapes.
        """
        wanted = [known for known in self._known if cases is None or known.case in cases]
        return Comparison(self._seed, tuple(_measured(known, candidate) for known in wanted), limits)


def _measured(known: _Known, candidate: Run) -> CaseFigures:
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite fail below, without warnings
        ours = candidate(known.images)
    try:
        return CaseFigures(known.case, measure_outputs(ours, known.exact, known.lost))
    except VerificationError as exc:
        raise VerificationError(f"{known.case}: {exc}") from exc


def losses(baseline: Run | None, images: NDArray[np.float32], exact: Outputs) -> dict[str, float] | None:
    """The baseline error of each output; None where there is no baseline."""
    return largest_errors(baseline(images) if baseline is not None else None, exact)


class Pictures:
    """Real images with the FP32 network's outputs, against which lower precisions are measured.

    Args:
        reference: The FP32 network.
        batches: Batches of images of one size each; every measurement goes through them again.
    """

    def __init__(self, reference: Run, batches: Iterable[NDArray[np.float32]]) -> None:
        self._reference, self._batches, self.count = reference, batches, 0
        self._held: list[Outputs] | None = []  # of all images maps would take gigabytes
        for batch in batches:
            outputs = reference(batch)
            self.count += len(batch)
            if self._held is not None:
                self._held.append(outputs)
            if any(values.ndim > 2 for values in outputs.values()):
                self._held = None

    def first(self, count: int) -> Pictures:
        """The first batches alone, held in memory."""
        return Pictures.held(self._reference, list(islice(self._batches, count)))

    @classmethod
    def held(cls, reference: Run, batches: Sequence[NDArray[np.float32]]) -> Pictures:
        """A few batches, with all that the FP32 network gives for them."""
        some = cls(reference, batches)
        if some._held is None:
            some._held = [reference(batch) for batch in batches]
        return some

    def compare(self, candidate: Run) -> dict[str, LogitFigures | ValueFigures]:
        """Measure the outputs in a lower precision; errors in standard deviations of the FP32 network's."""
        logits: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        parts: dict[str, list[tuple[int, ValueFigures]]] = {}
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite agrees with nothing, without warnings
            for batch, known in zip(self._batches, self._known(), strict=True):
                made = candidate(batch)
                for name, values in known.items():
                    if name == LOGITS:
                        logits.append((np.asarray(made[name], np.float64), np.asarray(values, np.float64)))
                    else:
                        figures = measure_values(np.asarray(made[name]), values)
                        parts.setdefault(name, []).append((values.size, figures))
            found: dict[str, LogitFigures | ValueFigures] = {}
            if logits:
                ours, exact = zip(*logits, strict=True)
                found[LOGITS] = measure_logits(np.concatenate(ours), np.concatenate(exact)).in_std()
            return found | {name: joined(own).in_std() for name, own in parts.items()}

    def _known(self) -> Iterable[Outputs]:
        return self._held if self._held is not None else map(self._reference, self._batches)
