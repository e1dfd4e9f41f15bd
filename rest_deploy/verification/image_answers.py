"""Real images through every network in one go: each is read once, and every network gets the same array."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.errors import ImageError, RestDeployError, VerificationError
from rest_deploy.models.memory import check_image
from rest_deploy.preprocess.dataset import Dataset
from rest_deploy.preprocess.images import load_image
from rest_deploy.preprocess.transform import fed_size, transform
from rest_deploy.specs import ImageSize, Precision, Preprocessing
from rest_deploy.verification.reference import loss
from rest_deploy.verification.subjects import OpenReference, Subject

Array = NDArray[np.float64]


@dataclass
class Answers:
    """What all networks say of the images at one size.

    Args:
        size: In place of the transform's own; None for that.
        images: Which of the data set's images were read, by number.
        exact: Reference's logits of each.
        ours: Artifact's name -> its logits of each.
        lost: Precision -> largest error of its yardstick.
        errors: Artifact's name -> why it gave no answers.
    """

    size: ImageSize | None
    images: list[int] = field(default_factory=list)
    exact: list[Array] = field(default_factory=list)
    ours: dict[str, list[NDArray[np.floating[Any]]]] = field(default_factory=dict)
    lost: dict[Precision, float | None] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def cut(self) -> None:
        """Leave what all have answered, where they were interrupted."""
        whole = min(len(self.exact), len(self.images), *(len(rows) for rows in self.ours.values()))
        del self.images[whole:], self.exact[whole:]
        for rows in self.ours.values():
            del rows[whole:]


class ImageCheck:
    """A data set on its way through the networks.

    Args:
        data: The images.
        steps: From an image to the input.
        sizes: To bring images to, in place of that of ``steps``; None stands for that.
        reference: What is right.
        subjects: What is measured.
        batch: Images of a call. INT8 for the CPU takes its range from a whole batch, so that more than one changes it.
    """

    def __init__(
        self,
        data: Dataset,
        steps: Preprocessing,
        sizes: Sequence[ImageSize | None],
        *,
        reference: OpenReference,
        subjects: Sequence[Subject],
        batch: int = 1,
    ) -> None:
        self._data, self._steps, self._batch = data, steps, batch
        self._reference, self._subjects = reference, subjects
        self.answers = [Answers(size) for size in sizes]
        self.skipped: list[tuple[str, str]] = []  # images that could not be read, and why
        self.interrupted = False

    def run(self, report: Callable[[float], None]) -> None:
        """Go through all images, or those before Ctrl-C.

        Raises:
            VerificationError: None of them can be read.
            KeyboardInterrupt: It came before the first was done.
        """
        try:
            self._go(report)
        except KeyboardInterrupt:
            for answers in self.answers:
                answers.cut()
            if not all(answers.images for answers in self.answers):
                raise
            self.interrupted = True

    def _go(self, report: Callable[[float], None]) -> None:
        waiting: dict[int, list[tuple[int, NDArray[np.float32]]]] = {i: [] for i in range(len(self.answers))}
        for number, inputs in self._inputs(report):
            for i, pixels in enumerate(inputs):
                if waiting[i] and (len(waiting[i]) == self._batch or waiting[i][0][1].shape != pixels.shape):
                    self._run(self.answers[i], waiting[i])
                    waiting[i] = []
                waiting[i].append((number, pixels))
        for i, group in waiting.items():
            if group:
                self._run(self.answers[i], group)
        if not self.answers[0].images:
            name, why = self.skipped[0]
            raise VerificationError(f"none of {len(self.skipped)} images could be read; the first is {name}: {why}")

    def _inputs(self, report: Callable[[float], None]) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
        """Number of an image, and it at every size."""
        steps = [self._steps if answers.size is None else self._steps.at(answers.size) for answers in self.answers]
        for number, path in enumerate(self._data.images):
            report(number / len(self._data.images))
            try:
                image = load_image(path, self._steps.alpha, functools.partial(self._check, steps, str(path)))
                yield number, [transform(image, own) for own in steps]
            except ImageError as exc:
                self.skipped.append((self._data.name(path), str(exc)))

    def _check(self, steps: Sequence[Preprocessing], name: str, height: int, width: int) -> None:
        """Refuse an image that a network, or the reference, has no memory for; on a GPU that cannot be told."""
        reference = self._reference.subject
        for own in steps:
            size = fed_size(own, height, width, name)
            for subject in (reference, *self._subjects):
                info, wide = subject.info, 2 if subject is reference and subject.info.format == "pytorch" else 1
                if subject.device == "cpu" and info.engine is None:
                    own_size = (info.config, size.height, size.width, name)
                    check_image(*own_size, precision=info.precision, format=info.format, widening=wide)

    def _run(self, answers: Answers, group: Sequence[tuple[int, NDArray[np.float32]]]) -> None:
        batch = np.stack([pixels for _, pixels in group])
        exact = np.asarray(self._reference.subject.run(batch), np.float64)
        answers.images += [number for number, _ in group]
        answers.exact += list(exact)
        for precision in {subject.info.precision for subject in self._subjects}:
            lost = loss(self._reference.yardstick(precision), batch, exact)
            before = answers.lost.get(precision) or 0.0
            answers.lost[precision] = None if lost is None else float(np.maximum(lost, before))  # NaN stays NaN
        for subject in self._subjects:
            if subject.name in answers.errors:
                continue
            try:
                with np.errstate(invalid="ignore", over="ignore"):
                    logits = np.asarray(subject.run(batch))  # float32, of which a large data set takes gigabytes
            except RestDeployError as exc:  # of an engine that was not built for the size; the others are answered
                answers.errors[subject.name] = str(exc)
                continue
            answers.ours.setdefault(subject.name, []).extend(logits)
