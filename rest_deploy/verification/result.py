"""What a verification found, and the judgement of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rest_deploy.errors import counted
from rest_deploy.recipes import Limits, Recipe
from rest_deploy.verification.blocks import BlockComparison
from rest_deploy.verification.figures import MOST_FLIPS, MOST_WRONG, Accuracy, ImageFigures, ValueFigures
from rest_deploy.verification.limits import judge, judge_values, of_maps, on_images
from rest_deploy.verification.reference import Comparison

KIND, SCHEMA = "rest-verify", 2
#: What a record says of accuracy where classes are not known.
NO_ACCURACY: Mapping[str, Any] = {"top1_accuracy": None, "top5_accuracy": None, "by_class": [], "confused": []}


@dataclass(frozen=True)
class DataResult:
    """The images that were gone through.

    Args:
        folder: Where they lie.
        images: How many were read.
        labelled: Whether the classes of all are known.
        skipped: (name, why) of those that could not be read.
        transform: From an image to the input, in words.
        reference: Size, or None for the transform's own -> accuracy of the reference, where classes are known.
        note: How the folder was read, for the user.
        interrupted: Whether Ctrl-C ended it; figures are of the images before.
        left_out: Names of the files that are not images.
    """

    folder: str
    images: int
    labelled: bool
    skipped: tuple[tuple[str, str], ...]
    transform: str
    reference: Mapping[str | None, Accuracy | None]
    note: str | None = None
    interrupted: bool = False
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **asdict(self),
            "skipped": [{"image": name, "error": why} for name, why in self.skipped],
            "left_out": list(self.left_out),
            "reference": [
                {"size": size, **(accuracy.to_dict(str) if accuracy is not None else NO_ACCURACY)}
                for size, accuracy in self.reference.items()
            ],
        }


@dataclass(frozen=True)
class ArtifactResult:
    """One artifact.

    Args:
        about: What it is, as plain values.
        recipe: Whose limits judge.
        synthetic: Figures on synthetic images; None if none were run.
        blocks: Figures of its blocks; None if they were not requested.
        asked: Limits that replace those of the precision.
        images: Figures on real images, one for each size.
        data: Of the images; None where there were none.
        errors: What could not be run, in words.
        other_weights: That the reference has other weights than it was made from, in words; empty where that is not so.
        name_of: Name of a class.
        thumbnails: Image's name -> a small copy of it.
    """

    about: Mapping[str, Any]
    recipe: Recipe
    synthetic: Comparison | None
    blocks: BlockComparison | None
    asked: Limits
    images: tuple[ImageFigures, ...] = ()
    data: DataResult | None = None
    errors: tuple[str, ...] = ()
    other_weights: str = ""
    name_of: Callable[[int], str] = str
    thumbnails: Mapping[str, str] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """What is past the limits, or could not be run, in words."""
        failures = list(self.errors)
        if self.synthetic is not None:
            failures += self.synthetic.failures
        for images in self.images:
            where = counted(images.figures.images, "image") + (f" at {images.size}" if images.size is not None else "")
            reasons = judge(images.figures, self.allowed, accuracy_loss=self._accuracy_loss(images))
            failures += [f"{where}: {reason}" for reason in reasons]
            for name, figures in images.maps.items():
                failures += [f"{where} {name}: {reason}" for reason in judge(figures, self.allowed_of_maps)]
        if self.blocks is not None and self.blocks.first_over_limit is not None:
            failures.append(f"{self.blocks.case}: the difference begins at block {self.blocks.first_over_limit}")
        if len(failures) > len(self.errors) and self.other_weights:  # which is no reason for what could not be run
            failures.append(self.other_weights)
        return failures

    @property
    def passed(self) -> bool:
        """Whether there are no failures."""
        return not self.failures

    @property
    def allowed(self) -> Limits:
        """What is allowed on real images."""
        return on_images(self.recipe, self.asked)

    @property
    def allowed_of_maps(self) -> Limits:
        """What is allowed of outputs other than the logits."""
        return of_maps(self.recipe, self.asked)

    def _accuracy_loss(self, images: ImageFigures) -> float | None:
        known = self.data.reference.get(_key(images)) if self.data is not None else None
        return known.top1 - images.accuracy.top1 if known is not None and images.accuracy is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        cases, own = [], None
        if self.synthetic is not None:
            own = asdict(self.synthetic.limits)
            cases = [row for case in self.synthetic.cases for row in case.rows(self.synthetic.limits)]
        return {
            **self.about,
            "limits": {"synthetic": own, "images": asdict(self.allowed) if self.images else None},
            "synthetic": cases,
            "images": [self._image_dict(images) for images in self.images],
            "blocks": self.blocks.to_dict() if self.blocks is not None else None,
            "failures": self.failures,
            "passed": self.passed,
        }

    def _image_dict(self, images: ImageFigures) -> dict[str, Any]:
        accuracy, flips, wrong = images.accuracy, images.flips[:MOST_FLIPS], images.wrong[:MOST_WRONG]
        return {
            "size": _key(images),
            **asdict(images.figures),
            "limit": self.allowed.allowed(images.figures),
            **({"maps": [self._map_dict(name, own) for name, own in images.maps.items()]} if images.maps else {}),
            **(accuracy.to_dict(self.name_of) if accuracy is not None else NO_ACCURACY),
            "flips": len(images.flips),
            "worst_flips": [flip.to_dict(self.name_of, self.thumbnails.get(flip.image)) for flip in flips],
            "wrong": len(images.wrong) if accuracy is not None else None,
            "worst_wrong": [one.to_dict(self.name_of, self.thumbnails.get(one.image)) for one in wrong],
            "worst_errors": [worst.to_dict(self.name_of) for worst in images.worst],
        }

    def _map_dict(self, name: str, figures: ValueFigures) -> dict[str, Any]:
        return {"output": name, **asdict(figures), **asdict(judge_values(figures, self.allowed_of_maps))}


def _key(images: ImageFigures) -> str | None:
    return str(images.size) if images.size is not None else None


@dataclass(frozen=True)
class Verification:
    """A run.

    Args:
        environment: The machine (``environment.py``).
        reference: What artifacts were measured against, as plain values.
        artifacts: The results of each.
        data: Of the images; None where there were none.
        seed: Of the synthetic images.
    """

    environment: Mapping[str, Any]
    reference: Mapping[str, Any]
    artifacts: tuple[ArtifactResult, ...]
    data: DataResult | None
    seed: int

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return self.data is not None and self.data.interrupted

    @property
    def failures(self) -> list[str]:
        """What is past the limits or could not be run, and how many images could not be read, in words."""
        failures = [f"{own.about['name']}: {failure}" for own in self.artifacts for failure in own.failures]
        if self.data is not None and self.data.skipped:
            failures.append(f"{counted(len(self.data.skipped), 'image')} could not be read")
        return failures

    @property
    def passed(self) -> bool:
        """Whether there are no failures."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "environment": dict(self.environment),
            "reference": dict(self.reference),
            "seed": self.seed,
            "data": self.data.to_dict() if self.data is not None else None,
            "artifacts": [artifact.to_dict() for artifact in self.artifacts],
            "passed": self.passed,
        }
