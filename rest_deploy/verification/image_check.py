"""Artifacts on the images of a folder, through one loader and one transform."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from rest_deploy.errors import ConfigError
from rest_deploy.preprocess.dataset import Dataset, open_dataset
from rest_deploy.preprocess.images import load_image
from rest_deploy.preprocess.thumbnail import thumbnail
from rest_deploy.specs import BATCH, IMAGES, Alpha, ImageSize, Preprocessing, PreprocessingChange
from rest_deploy.values import hold
from rest_deploy.verification.image_answers import Answers, ImageCheck
from rest_deploy.verification.image_figures import MOST_FLIPS, MOST_WRONG, ImageFigures, accuracy_of, image_figures
from rest_deploy.verification.result import ArtifactResult, DataResult
from rest_deploy.verification.subjects import OpenReference, Subject


@dataclass(frozen=True)
class Images:
    """Real images to compare answers on.

    Args:
        folder: Of images; one subfolder for each class tells their classes.
        ground_truth: File that tells them instead, a line an image (``preprocess/dataset.py``).
        change: Of the transform that the artifacts declare.
        most: How many images at most, chosen by the seed; None for all.
        batch: Images of a call. INT8 for the CPU takes its range from a whole batch, so that more than one changes it.

    Raises:
        ConfigError: A figure out of range.
    """

    folder: Path
    ground_truth: Path | None = None
    change: PreprocessingChange | None = None
    most: Annotated[int, IMAGES] | None = None
    batch: Annotated[int, BATCH] = 1

    def __post_init__(self) -> None:
        hold(self)


@dataclass(frozen=True)
class ImagesResult:
    """What was found.

    Args:
        data: Of the images themselves.
        figures: Artifact's name -> its figures at each size.
        errors: Artifact's name -> where it could not be run, in words.
        thumbnails: Image's name -> a small copy of it, of those that are listed as flipped or wrong.
    """

    data: DataResult
    figures: Mapping[str, tuple[ImageFigures, ...]]
    errors: Mapping[str, tuple[str, ...]]
    thumbnails: Mapping[str, str]

    def added_to(self, result: ArtifactResult, name: str) -> ArtifactResult:
        """An artifact's result with what was found of it here."""
        errors = (*result.errors, *self.errors[name])
        return replace(result, images=self.figures[name], data=self.data, errors=errors, thumbnails=self.thumbnails)


def on_images(
    reference: OpenReference,
    subjects: Sequence[Subject],
    wish: Images,
    sizes: Sequence[ImageSize],
    *,
    needs_classes: bool,
    seed: int,
    report: Callable[[float, str], None],
) -> ImagesResult:
    """Measure every artifact.

    Args:
        reference: What is right.
        subjects: The artifacts.
        wish: The images.
        sizes: To bring them to; none for what the transform gives.
        needs_classes: Whether accuracy is to be judged.
        seed: Of the choice of images.
        report: Called as it goes on.

    Raises:
        ConfigError: There are no images, the artifacts' transforms differ, or classes that are needed are not known.
        VerificationError: None of the images can be read.
    """
    first = subjects[0].info
    steps = _one_transform(subjects, wish.change)
    data = open_dataset(wish.folder, labels=first.labels, num_classes=first.num_classes, ground_truth=wish.ground_truth)
    if needs_classes and not data.labelled:
        raise ConfigError(
            f"a limit of accuracy was given, and the classes of the images in {wish.folder} are not known: {data.note}"
        )
    if wish.most is not None:
        data = data.limited(wish.most, seed)
    check = ImageCheck(data, steps, sizes or [None], reference=reference, subjects=subjects, batch=wish.batch)
    check.run(lambda share: report(share, "images"))
    figures = {subject.name: tuple(_figures(subject, check.answers, data)) for subject in subjects}
    errors = {
        subject.name: tuple(
            f"images at {answers.size or 'their size'}: {answers.errors[subject.name]}"
            for answers in check.answers
            if subject.name in answers.errors
        )
        for subject in subjects
    }
    return ImagesResult(_data_result(data, steps, check), figures, errors, _thumbnails(data, figures, steps.alpha))


def _one_transform(subjects: Sequence[Subject], change: PreprocessingChange | None) -> Preprocessing:
    """The transform that all artifacts declare, with the changes that were asked for.

    Raises:
        ConfigError: They declare different ones, or one takes no pictures.
    """
    changes = change or PreprocessingChange()
    said = Preprocessing(mean=changes.mean, std=changes.std) if changes.mean and changes.std else None
    declared = {own.name: changes.apply(_of_pictures(own, said)) for own in subjects}
    if len(set(declared.values())) > 1:
        told = "; ".join(f"{name}: {steps}" for name, steps in declared.items())
        raise ConfigError(
            f"the artifacts turn images into inputs in different ways ({told}); verify them one at a time, or give "
            "--transform, --image-size, --mean and --std"
        )
    return next(iter(declared.values()))


def _of_pictures(subject: Subject, said: Preprocessing | None) -> Preprocessing:
    """What an artifact declares, or the caller says in its place, of pictures."""
    steps = subject.info.preprocessing or said
    if steps is not None and steps.takes_pictures:
        return steps
    why = "leaves preprocessing to its caller; give --mean and --std"
    if (channels := subject.info.input.shape[1]) not in (1, 3):
        why = f"takes {channels} channels, and pictures have 1 or 3"
    raise ConfigError(f"{subject.path} {why}, or leave --data out and compare on synthetic inputs")


def _figures(subject: Subject, answers: Sequence[Answers], data: Dataset) -> list[ImageFigures]:
    made = []
    for at in answers:
        if subject.name in at.errors:
            continue
        names = [data.name(data.images[number]) for number in at.images]
        classes = [data.classes[number] for number in at.images]
        ours, exact = np.stack(at.ours[subject.name]).astype(np.float64), np.stack(at.exact)
        lost = at.lost[subject.info.precision]
        made.append(image_figures(at.size, ours, exact, names=names, classes=classes, reference_error=lost))
    return made


def _data_result(data: Dataset, steps: Preprocessing, check: ImageCheck) -> DataResult:
    accuracy = {
        str(at.size) if at.size is not None else None: accuracy_of(
            np.stack(at.exact), [data.classes[number] for number in at.images]
        )
        for at in check.answers
    }
    return DataResult(
        folder=str(data.folder),
        images=len(check.answers[0].images),
        labelled=data.labelled,
        skipped=tuple(check.skipped),
        transform=str(steps),
        reference=accuracy,
        note="; ".join(filter(None, (data.note, data.left_out_note))),
        left_out=tuple(data.name(path) for path in data.left_out),
        interrupted=check.interrupted,
    )


def _thumbnails(data: Dataset, figures: Mapping[str, Sequence[ImageFigures]], alpha: Alpha) -> dict[str, str]:
    """Small copies of the images that will be listed."""
    shown = [images for own in figures.values() for images in own]
    wanted = {one.image for own in shown for one in (*own.flips[:MOST_FLIPS], *own.wrong[:MOST_WRONG])}
    named = ((data.name(path), path) for path in data.images)
    return {name: thumbnail(load_image(path, alpha)) for name, path in named if name in wanted}
