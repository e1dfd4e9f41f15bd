"""Real images through every network in one pass: each is read once, and every network gets the same array."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from rest_deploy.artifact.profile import InputSize
from rest_deploy.errors import ConfigError, ImageError, InputError, RestDeployError, VerificationError, counted
from rest_deploy.models.family import family_named
from rest_deploy.preprocess.dataset import Dataset, open_dataset
from rest_deploy.preprocess.images import load_image, thumbnail
from rest_deploy.preprocess.transform import fed_size, input_of, transform
from rest_deploy.specs import (
    BATCH,
    IMAGES,
    LOGITS,
    Alpha,
    ImageSize,
    InputKind,
    Precision,
    Preprocessing,
    PreprocessingChange,
)
from rest_deploy.values import hold
from rest_deploy.verification.figures import (
    MOST_FLIPS,
    MOST_WRONG,
    ImageFigures,
    Outputs,
    ValueFigures,
    accuracy_of,
    joined,
    measure_images,
    measure_values,
)
from rest_deploy.verification.opened import OpenReference, Subject
from rest_deploy.verification.reference import losses
from rest_deploy.verification.result import DataResult


@dataclass(frozen=True)
class Images:
    """Real images to compare answers on.

    Args:
        folder: Folder of images; a subfolder for each class gives their classes.
        ground_truth: File that gives the classes instead, one line per image (``preprocess/ground_truth.py``).
        change: Change of the transform that the artifacts declare.
        most: Largest number of images, chosen by the seed; None for all.
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
        thumbnails: Name of each image that is listed as flipped or wrong -> a small copy of it.
    """

    data: DataResult
    figures: Mapping[str, tuple[ImageFigures, ...]]
    errors: Mapping[str, tuple[str, ...]]
    thumbnails: Mapping[str, str]


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
    """Measure every artifact on images at some sizes, or at the size that the transform gives.

    Raises:
        ConfigError: There are no images, the artifacts' transforms differ, or classes that are needed are not known.
        InputError: A batch of one of the sizes would take more memory than is free.
        VerificationError: None of the images can be read.
    """
    first = subjects[0].info
    _check_files(subjects, changed=bool(sizes) or wish.change is not None)
    steps = _one_transform(subjects, wish.change)
    data = open_dataset(wish.folder, labels=first.labels, num_classes=first.num_classes, ground_truth=wish.ground_truth)
    if needs_classes and not data.labelled:
        raise ConfigError(
            f"a limit of accuracy was given, and the classes of the images in {wish.folder} are not known: {data.note}"
        )
    if wish.most is not None:
        data = data.limited(wish.most, seed)
    answers = [_Answers(size, {subject.name: [] for subject in subjects}) for size in sizes or (None,)]
    run = _Pass(data, steps, answers, reference, subjects, wish.batch)
    run.all(lambda share: report(share, "images"))
    figures = {subject.name: tuple(_figures(subject, run.answers, data)) for subject in subjects}
    errors = {
        subject.name: tuple(
            f"images at {answers.size or 'their size'}: {answers.errors[subject.name]}"
            for answers in run.answers
            if subject.name in answers.errors
        )
        for subject in subjects
    }
    return ImagesResult(_data_result(data, run), figures, errors, _thumbnails(data, figures, steps.alpha))


def _check_files(subjects: Sequence[Subject], *, changed: bool) -> None:
    """Refuse backbones, and files with their transform in the graph where that is to be changed."""
    for subject in subjects:
        if not subject.info.num_classes:
            raise ConfigError(
                f"{subject.path} is a backbone: images are judged by logits, and it gives "
                f"{', '.join(subject.info.taps.names)}; leave --data out and compare on synthetic images"
            )
    for subject in subjects:
        if subject.way and changed:
            raise ConfigError(
                f"{subject.path}: it takes pictures, and its transform is in the file; leave sizes and flags of the "
                "transform out, or give a file exported with --input float"
            )


def _one_transform(subjects: Sequence[Subject], change: PreprocessingChange | None) -> Preprocessing:
    """The transform that all artifacts declare, with the requested changes.

    Raises:
        ConfigError: They declare different ones, or one takes no pictures.
    """
    changes = change or PreprocessingChange()
    said = Preprocessing(mean=changes.mean, std=changes.std) if changes.mean and changes.std else None
    declared = {
        own.name: changes.apply(_of_pictures(own, said), family_named(own.info.family).preprocessing_at)
        for own in subjects
    }
    if len(set(declared.values())) > 1:
        told = "; ".join(f"{name}: {steps}" for name, steps in declared.items())
        raise ConfigError(
            f"the artifacts turn images into inputs in different ways ({told}); verify them one at a time, or give "
            "--transform, --image-size, --mean and --std"
        )
    return next(iter(declared.values()))


def _of_pictures(subject: Subject, said: Preprocessing | None) -> Preprocessing:
    """The transform of pictures that an artifact declares, or that the caller gives if it declares none."""
    steps = subject.info.preprocessing or said
    if steps is not None and steps.takes_pictures:
        return steps
    why = "leaves preprocessing to its caller; give --mean and --std"
    if (channels := subject.info.channels) not in (1, 3):
        why = f"takes {channels} channels, and pictures have 1 or 3"
    raise ConfigError(f"{subject.path} {why}, or leave --data out and compare on synthetic inputs")


@dataclass
class _Answers:
    """The answers of all networks to the images at one size.

    Args:
        size: None for the size of the transform.
        ours: Name of each artifact that could be run so far -> its logits of each image.
        images: Numbers of the images in the data set that were read.
        exact: Reference's logits of each.
        maps: (artifact's name, map) -> of each call, how many values it gave, and their figures.
        lost: Precision -> its baseline error of the logits.
        errors: Artifact's name -> why it gave no answers.
    """

    size: ImageSize | None
    ours: dict[str, list[NDArray[np.floating[Any]]]]
    images: list[int] = field(default_factory=list)
    exact: list[NDArray[np.float64]] = field(default_factory=list)
    maps: dict[tuple[str, str], list[tuple[int, ValueFigures]]] = field(default_factory=dict)
    lost: dict[Precision, float | None] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def cut(self) -> None:
        """After an interrupt, keep the images that all networks have answered."""
        whole = min(len(self.exact), len(self.images), *(len(rows) for rows in self.ours.values()))
        del self.images[whole:], self.exact[whole:]
        for rows in self.ours.values():
            del rows[whole:]
        calls = min(map(len, self.maps.values()), default=0)
        for parts in self.maps.values():
            del parts[calls:]

    def fail(self, artifact: str, why: str) -> None:
        """Leave out an artifact that could not be run."""
        self.errors[artifact] = why
        del self.ours[artifact]
        self.maps = {key: parts for key, parts in self.maps.items() if key[0] != artifact}

    def add_maps(self, artifact: str, ours: Outputs, exact: Outputs, lost: Mapping[str, float] | None) -> None:
        """Measure the outputs of a call other than logits."""
        for name in exact:
            if name != LOGITS:
                figures = measure_values(ours[name], exact[name], lost[name] if lost is not None else None)
                self.maps.setdefault((artifact, name), []).append((exact[name].size, figures))


@dataclass(frozen=True)
class _Image:
    """One image at one size: its number in the data set, the network's input, and what files take in place of it."""

    number: int
    values: NDArray[np.float32]
    inputs: Mapping[InputKind, NDArray[Any]]


@dataclass
class _Pass:
    """A data set through the networks, ``batch`` images a call. ``skipped`` has (name, why) of unreadable images."""

    data: Dataset
    steps: Preprocessing
    answers: list[_Answers]
    reference: OpenReference
    subjects: Sequence[Subject]
    batch: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def _networks(self) -> tuple[Subject, ...]:
        return self.reference.subject, *self.subjects

    def all(self, report: Callable[[float], None]) -> None:
        """Go through all images, or those before Ctrl-C.

        Raises:
            VerificationError: None of them can be read.
            KeyboardInterrupt: It came before the first was done.
        """
        try:
            self._answer_all(report)
        except KeyboardInterrupt:
            for answers in self.answers:
                answers.cut()
            if not all(answers.images for answers in self.answers):
                raise
            self.interrupted = True

    def _answer_all(self, report: Callable[[float], None]) -> None:
        for size in (own.size for own in self._steps() if own.size is not None):  # as all images come
            self._check_memory(size, "images", InputError)
        waiting: dict[int, list[_Image]] = {i: [] for i in range(len(self.answers))}
        for images in self._inputs(report):
            for i, image in enumerate(images):
                if waiting[i] and (len(waiting[i]) == self.batch or waiting[i][0].values.shape != image.values.shape):
                    self._answer(self.answers[i], waiting[i])
                    waiting[i] = []
                waiting[i].append(image)
        for i, group in waiting.items():
            if group:
                self._answer(self.answers[i], group)
        if not self.answers[0].images:
            name, why = self.skipped[0]
            raise VerificationError(
                f"none of {counted(len(self.skipped), 'image')} could be read; the first is {name}: {why}"
            )

    def _steps(self) -> list[Preprocessing]:
        """From a picture to the input, at every size."""
        return [self.steps if answers.size is None else self.steps.at(answers.size) for answers in self.answers]

    def _inputs(self, report: Callable[[float], None]) -> Iterator[list[_Image]]:
        """An image at every size."""
        steps = self._steps()
        kinds = {network.info.input_kind for network in self._networks} - {InputKind.FLOAT}
        for number, path in enumerate(self.data.images):
            report(number / len(self.data.images))
            try:
                image = load_image(path, self.steps.alpha, functools.partial(self._check, steps, str(path)))
                yield [
                    _Image(number, transform(image, own), {kind: input_of(image, own, kind) for kind in kinds})
                    for own in steps
                ]
            except ImageError as exc:
                self.skipped.append((self.data.name(path), str(exc)))

    def _check(self, steps: Sequence[Preprocessing], name: str, height: int, width: int) -> None:
        """Refuse an image if a network or the reference has too little memory for a batch of it."""
        for own in steps:
            self._check_memory(fed_size(own, height, width, name), name, ImageError)
        for network in self._networks:
            if network.info.input_kind is InputKind.PIXELS:  # one at a time
                network.check_memory(InputSize(1, ImageSize(height, width)), name, ImageError)

    def _check_memory(self, size: ImageSize, name: str, refusal: type[RestDeployError]) -> None:
        for network in self._networks:
            network.check_memory(InputSize(self.batch, size), name, refusal)

    def _answer(self, answers: _Answers, group: Sequence[_Image]) -> None:
        batch = np.stack([image.values for image in group])
        exact = _outputs(self.reference.subject, group)
        answers.images += [image.number for image in group]
        answers.exact += list(np.asarray(exact[LOGITS], np.float64))
        lost = dict[Precision, dict[str, float] | None]()
        for precision in {subject.info.precision for subject in self.subjects}:
            own = lost[precision] = losses(self.reference.baseline(precision), batch, exact)
            before = answers.lost.get(precision) or 0.0
            answers.lost[precision] = None if own is None else float(np.maximum(own[LOGITS], before))  # NaN stays NaN
        for subject in self.subjects:
            if subject.name in answers.errors:
                continue
            try:
                with np.errstate(invalid="ignore", over="ignore"):
                    outputs = _outputs(subject, group)
            except RestDeployError as exc:  # of an engine that was not built for the size; the others are answered
                answers.fail(subject.name, str(exc))
                continue
            answers.ours[subject.name].extend(outputs[LOGITS])  # of all images: float32 as it is
            answers.add_maps(subject.name, outputs, exact, lost[subject.info.precision])


def _outputs(network: Subject, group: Sequence[_Image]) -> Outputs:
    """What a network gives for images; pictures go one at a time, because their sizes may differ."""
    kind = network.info.input_kind
    if kind is InputKind.FLOAT:
        return network.run(np.stack([image.values for image in group]))
    found = [network.run(image.inputs[kind][None]) for image in group]
    return {name: np.concatenate([own[name] for own in found]) for name in found[0]}


def _figures(subject: Subject, answers: Sequence[_Answers], data: Dataset) -> Iterator[ImageFigures]:
    for at in answers:
        if subject.name in at.errors:
            continue
        names = [data.name(data.images[number]) for number in at.images]
        classes = [data.classes[number] for number in at.images]
        ours, exact = np.stack(at.ours[subject.name]).astype(np.float64), np.stack(at.exact)
        lost = at.lost[subject.info.precision]
        maps = {name: joined(parts) for (artifact, name), parts in at.maps.items() if artifact == subject.name}
        yield measure_images(at.size, ours, exact, names=names, classes=classes, reference_error=lost, maps=maps)


def _data_result(data: Dataset, run: _Pass) -> DataResult:
    accuracy = {
        str(at.size) if at.size is not None else None: accuracy_of(
            np.stack(at.exact), [data.classes[number] for number in at.images]
        )
        for at in run.answers
    }
    return DataResult(
        folder=str(data.folder),
        images=len(run.answers[0].images),
        labelled=data.labelled,
        skipped=tuple(run.skipped),
        transform=_in_words(run.steps, [at.size for at in run.answers if at.size is not None]),
        reference=accuracy,
        note="; ".join(filter(None, (data.note, data.left_out_note))),
        left_out=tuple(data.name(path) for path in data.left_out),
        interrupted=run.interrupted,
    )


def _in_words(steps: Preprocessing, sizes: Sequence[ImageSize]) -> str:
    """What was done with the images, at the given sizes."""
    if not sizes:
        return str(steps)
    return str(steps.at(sizes[0])).replace(str(sizes[0]), ", ".join(map(str, sizes)), 1)


def _thumbnails(data: Dataset, figures: Mapping[str, Sequence[ImageFigures]], alpha: Alpha) -> dict[str, str]:
    """Small copies of the images that will be listed."""
    shown = [images for own in figures.values() for images in own]
    wanted = {one.image for own in shown for one in (*own.flips[:MOST_FLIPS], *own.wrong[:MOST_WRONG])}
    named = ((data.name(path), path) for path in data.images)
    return {name: thumbnail(load_image(path, alpha)) for name, path in named if name in wanted}
