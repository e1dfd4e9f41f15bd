"""Ranges of input sizes: read as they are written, refused where they contradict themselves, chosen by fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_deploy.artifact.profile import InputSize, Profile, fitting, narrowest, nearest
from rest_deploy.errors import ConfigError, InputError
from rest_deploy.specs import ImageSize
from rest_deploy.values import plain, read

TEXT = "1x32x64:2x224x288:8x640x700"

_numbers = st.integers(1, 2000)
sizes = st.builds(InputSize, st.integers(1, 64), st.builds(ImageSize, _numbers, _numbers))


@st.composite
def profiles(draw):
    """Any profile: three numbers in order for each of batch, height and width."""
    batch, height, width = (sorted(draw(st.tuples(_numbers, _numbers, _numbers))) for _ in range(3))
    return Profile(*(InputSize(b, ImageSize(h, w)) for b, h, w in zip(batch, height, width, strict=True)))


def make(low="1x32x32", opt="1x224x224", high="8x640x640"):
    return Profile(InputSize.parse(low), InputSize.parse(opt), InputSize.parse(high))


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("8x480x640", (8, 480, 640)),
        ("480x640", (1, 480, 640)),
        ("224", (1, 224, 224)),
        (" 8X480X640 ", (8, 480, 640)),
        ("999999x1x1", (999_999, 1, 1)),
    ],
)
def test_a_size_as_text(text, sizes):
    size = InputSize.parse(text)
    assert size.sizes == sizes
    assert InputSize.parse(str(size)) == size


@pytest.mark.parametrize("text", ["", "x", "ax224x224", "-1x224x224", "8x224x", "1x2x3x4", "8x0x224"])
def test_a_size_that_cannot_be_read(text):
    with pytest.raises(ConfigError, match="image size"):
        InputSize.parse(text)


def test_a_size_that_nothing_is_resized_to():
    """As of a picture that a network takes as it is."""
    with pytest.raises(ConfigError, match="67,108,864 pixels"):
        InputSize.parse("2x9000x9000")
    assert InputSize.parse("2x9000x9000", resized=False).sizes == (2, 9000, 9000)
    for text in ("0x9000", "1000000x1", "x"):
        with pytest.raises(ConfigError, match="image size"):
            InputSize.parse(text, resized=False)


@pytest.mark.parametrize("batch", [0, -1, 1.0, True, "1", None])
def test_a_batch_is_a_whole_number_of_at_least_one(batch):
    with pytest.raises(ConfigError, match=r"batch is .*; accepted: a whole number from 1"):
        InputSize(batch, ImageSize(224, 224))


@pytest.mark.parametrize("batch", ["0", "1234567"])
def test_batches_out_of_range_in_text(batch):
    with pytest.raises(ConfigError, match=f"batch is {batch}; accepted: a whole number"):
        InputSize.parse(f"{batch}x224x224")


def test_the_shape_is_nchw():
    assert InputSize(8, ImageSize(480, 640)).shape(3) == (8, 3, 480, 640)


def test_a_profile_as_text():
    profile = Profile.parse(TEXT)
    assert (profile.min.sizes, profile.opt.sizes, profile.max.sizes) == ((1, 32, 64), (2, 224, 288), (8, 640, 700))
    assert str(profile) == TEXT


def test_the_batch_may_be_left_out_of_each_end():
    assert Profile.parse("32:224:8x640x640") == make()


@pytest.mark.parametrize("text", ["", "224", "32:224", "32:224:640:900", "1x32x32,1x224x224,8x640x640"])
def test_a_profile_has_three_ends(text):
    with pytest.raises(ConfigError, match=r"profile .*; accepted: MIN:OPT:MAX, for example 1x32x32:1x224x224:8x640"):
        Profile.parse(text)


@pytest.mark.parametrize("text", ["a:224:640", "32::640", "32:224:8x640x"])
def test_an_end_that_cannot_be_read(text):
    with pytest.raises(ConfigError, match=r"image size '.*'; accepted"):
        Profile.parse(text)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (("2x32x32", "1x224x224", "8x640x640"), "its batch goes 2, 1, 8"),
        (("1x32x32", "9x224x224", "8x640x640"), "its batch goes 1, 9, 8"),
        (("1x32x32", "1x16x224", "8x640x640"), "its height goes 32, 16, 640"),
        (("1x32x32", "1x700x224", "8x640x640"), "its height goes 32, 700, 640"),
        (("1x32x300", "1x224x224", "8x640x640"), "its width goes 300, 224, 640"),
        (("1x32x32", "1x224x224", "8x640x200"), "its width goes 32, 224, 200"),
    ],
)
def test_min_opt_and_max_must_be_in_order(ends, said):
    with pytest.raises(ConfigError, match=rf"profile {':'.join(ends)}: {said}; needed: min <= opt <= max"):
        make(*ends)


def test_the_three_ends_may_be_one_size():
    assert make("1x224x224", "1x224x224", "1x224x224").volume == 1


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("1x32x32", True),
        ("8x640x640", True),
        ("4x100x500", True),
        ("9x224x224", False),
        ("1x31x224", False),
        ("1x641x224", False),
        ("1x224x31", False),
        ("1x224x641", False),
    ],
)
def test_what_a_profile_holds(text, holds):
    assert make().holds(InputSize.parse(text)) is holds


@pytest.mark.parametrize(
    ("text", "found"),
    [("4x100x500", "4x100x500"), ("9x31x641", "8x32x640"), ("1x10000x1", "1x640x32")],
)
def test_the_nearest_size_within_a_profile(text, found):
    assert str(make().nearest(InputSize.parse(text))) == found


@given(profiles(), sizes)
def test_the_nearest_size_is_held_and_is_the_wanted_one_where_that_is_held(profile, wanted):
    found = profile.nearest(wanted)
    assert profile.holds(found)
    assert (found == wanted) is profile.holds(wanted)


def test_the_volume_counts_sizes():
    assert make("1x32x32", "1x32x32", "2x34x36").volume == 2 * 3 * 5


@given(profiles())
def test_text_and_dict_round_trip(profile):
    assert Profile.parse(str(profile)) == profile
    assert read(Profile, plain(profile)) == profile


def test_the_dict_holds_batch_height_and_width():
    assert plain(Profile.parse(TEXT)) == {"min": [1, 32, 64], "opt": [2, 224, 288], "max": [8, 640, 700]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"min": [1, 32]}, "^min has 2 values; accepted: 3"),
        ({"min": [1, 32, 32, 32]}, "^min has 4 values"),
        ({"opt": 224}, "^opt is 224; accepted: a list or tuple of 3"),
        ({"opt": None}, "^opt is None"),
        ({"max": [8, 640, 1.5]}, r"^max\[2\] is 1.5; accepted: a whole number"),
        ({"max": [8, 640, 100]}, "width goes 64, 288, 100"),
        ({"max": ["8", 640, 700]}, r"^max\[0\] is '8'"),
        ({"min": [True, 32, 64]}, r"^min\[0\] is True"),
    ],
)
def test_a_dict_that_is_no_profile(change, said):
    with pytest.raises(ConfigError, match=said):
        read(Profile, {**plain(Profile.parse(TEXT)), **change})


def test_a_missing_end_is_named():
    with pytest.raises(ConfigError, match=r"^opt is missing"):
        read(Profile, {"min": [1, 1, 1], "max": [1, 1, 1]})


@pytest.mark.parametrize(
    ("wanted", "index"),
    [("1x224x224", 1), ("1x100x100", 0), ("4x224x224", 2), ("8x640x640", 0), ("9x1x1", None)],
)
def test_the_narrowest_profile_that_fits(wanted, index):
    found = [make(), make("224", "224", "224"), make("1x224x224", "2x224x224", "8x224x224")]
    assert narrowest(found, InputSize.parse(wanted)) == index


def test_of_two_as_narrow_the_first_is_taken():
    assert narrowest([make("32", "32", "64"), make("64", "64", "96")], InputSize.parse("64")) == 0


def test_no_profile_fits_where_there_is_none():
    assert narrowest([], InputSize.parse("64")) is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("1x500x500", "1x500x500"),
        ("1x250x250", "1x224x224"),  # 0.1 of each side, where the other profile is 0.22 away
        ("1x300x300", "1x320x320"),
        ("1x1000x1000", "1x640x640"),
    ],
)
def test_the_nearest_of_several_profiles(wanted, found):
    both = [make("32", "224", "224"), make("320", "320", "640")]
    assert str(nearest(both, InputSize.parse(wanted))) == found


def test_nearest_is_meant_in_relative_terms():
    """16 images rather than 8 is far; 40 pixels of 4000 is not."""
    batch_off, height_off = make("32", "32", "8x4000x4000"), make("32", "32", "16x3960x4000")
    assert str(nearest([batch_off, height_off], InputSize.parse("16x4000x4000"))) == "16x3960x4000"


def test_a_size_that_no_profile_holds_is_named_with_what_does():
    both = (make(), make("9x1x1", "9x2x2", "16x16x16"))
    assert fitting(both, InputSize.parse("1x64x64"), "x.engine") == 0
    assert fitting(both, InputSize.parse("12x8x8"), "x.engine") == 1
    words = r"9x32x32 is outside of .* x\.engine .* 1x32x32 to 8x640x640 or 9x1x1 to 16x16x16; .* 8x32x32;"
    with pytest.raises(InputError, match=words):
        fitting(both, InputSize.parse("9x32x32"), "x.engine")
