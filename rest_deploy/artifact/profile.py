"""Optimization profiles: the input sizes that an engine accepts, and those it is tuned for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from rest_deploy.errors import ConfigError, InputError
from rest_deploy.specs import BATCH, SIDE, ImageSize
from rest_deploy.values import hold


@dataclass(frozen=True)
class InputSize:
    """Batch, height and width of an input; in JSON ``[batch, height, width]``."""

    batch: Annotated[int, BATCH]
    size: ImageSize

    PLAIN: ClassVar[Any] = tuple[Annotated[int, BATCH], Annotated[int, SIDE], Annotated[int, SIDE]]

    def __post_init__(self) -> None:
        hold(self)

    def __str__(self) -> str:
        return f"{self.batch}x{self.size}"

    @classmethod
    def parse(cls, text: str, *, resized: bool = True) -> InputSize:
        """Read ``"8x480x640"`` (batch, height, width), ``"480x640"`` (batch 1) or ``"224"`` (square, batch 1).

        Args:
            text: It.
            resized: As of :meth:`ImageSize.parse`.

        Raises:
            ConfigError: Anything else.
        """
        first, *rest = text.strip().lower().split("x")
        if len(rest) == 2 and first.isascii() and first.isdigit() and len(first) <= 100:
            return cls(int(first), ImageSize.parse("x".join(rest), resized=resized))
        return cls(1, ImageSize.parse(text, resized=resized))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(batch, height, width)."""
        return self.batch, self.size.height, self.size.width

    def to_plain(self) -> tuple[int, int, int]:
        """As :attr:`sizes`."""
        return self.sizes

    @classmethod
    def from_plain(cls, sizes: tuple[int, int, int]) -> InputSize:
        """The inverse of :meth:`to_plain`."""
        return cls(sizes[0], ImageSize(*sizes[1:]))

    def shape(self, channels: int) -> tuple[int, int, int, int]:
        """NCHW shape of a batch of this size."""
        return self.batch, channels, self.size.height, self.size.width


@dataclass(frozen=True)
class Profile:
    """A range of input sizes.

    Args:
        min: Smallest in each of batch, height and width.
        opt: What the engine is tuned for.
        max: Largest.

    Raises:
        ConfigError: Not min <= opt <= max in each of them.
    """

    min: InputSize
    opt: InputSize
    max: InputSize

    def __post_init__(self) -> None:
        hold(self)
        for name, *sizes in zip(
            ("batch", "height", "width"), self.min.sizes, self.opt.sizes, self.max.sizes, strict=True
        ):
            if sizes != sorted(sizes):
                raise ConfigError(
                    f"profile {self}: its {name} goes {sizes[0]}, {sizes[1]}, {sizes[2]}; needed: min <= opt <= max"
                )

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Read ``"1x32x32:1x224x224:8x640x640"`` (min, opt, max); a batch of 1 may be left out.

        Raises:
            ConfigError: Anything else.
        """
        parts = text.split(":")
        if len(parts) != 3:
            raise ConfigError(f"profile {text!r}; accepted: MIN:OPT:MAX, for example 1x32x32:1x224x224:8x640x640")
        return cls(*(InputSize.parse(part) for part in parts))

    def holds(self, wanted: InputSize) -> bool:
        """Whether an input of this size is within the range."""
        bounds = zip(self.min.sizes, wanted.sizes, self.max.sizes, strict=True)
        return all(low <= value <= high for low, value, high in bounds)

    def nearest(self, wanted: InputSize) -> InputSize:
        """The size within the range that is nearest in each of batch, height and width."""
        bounds = zip(self.min.sizes, wanted.sizes, self.max.sizes, strict=True)
        batch, height, width = (min(max(low, value), high) for low, value, high in bounds)
        return InputSize(batch, ImageSize(height, width))

    @property
    def volume(self) -> int:
        """How many sizes it holds; of two profiles that fit, the smaller one is tuned more closely."""
        batch, height, width = (high - low + 1 for low, high in zip(self.min.sizes, self.max.sizes, strict=True))
        return batch * height * width


def narrowest(profiles: Sequence[Profile], wanted: InputSize) -> int | None:
    """Number of the profile that fits a size with the least room, or None where none does."""
    fitting = [(profile.volume, index) for index, profile in enumerate(profiles) if profile.holds(wanted)]
    return min(fitting)[1] if fitting else None


def fitting(profiles: Sequence[Profile], wanted: InputSize, name: str) -> int:
    """As :func:`narrowest`, where a size that fits none is an error.

    Args:
        profiles: Of an engine.
        wanted: Size of an input.
        name: What the message calls the engine.

    Raises:
        InputError: No profile holds the size.
    """
    found = narrowest(profiles, wanted)
    if found is None:
        accepted = " or ".join(f"{profile.min} to {profile.max}" for profile in profiles)
        raise InputError(
            f"input of batch x height x width {wanted} is outside of what {name} was built for, {accepted}; the "
            f"nearest that fits is {nearest(profiles, wanted)}; resize, split the batch, or rebuild with --min-size, "
            "--max-size or --max-batch"
        )
    return found


def nearest(profiles: Sequence[Profile], wanted: InputSize) -> InputSize:
    """The size that fits one of the profiles and differs least, in relative terms, from the one wanted."""

    def distance(found: InputSize) -> float:
        return sum(abs(a - b) / max(a, b) for a, b in zip(found.sizes, wanted.sizes, strict=True))

    return min((profile.nearest(wanted) for profile in profiles), key=distance)


def largest_batch(profiles: tuple[Profile, ...], height: int, width: int) -> int | None:
    """Most images of a size that one of the profiles takes; None where none takes the size."""
    size = ImageSize(height, width)
    batches = (own.max.batch for own in profiles if own.holds(InputSize(own.max.batch, size)))
    return max(batches, default=None)
