"""The test vector of the record, and the programs of docs/other-languages.md that check themselves by it."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.artifact.info import ArtifactInfo, Weights
from rest_deploy.pipeline import ExportRequest, run_export
from rest_deploy.pipeline.vector import make_test_vector
from rest_deploy.predictor import Predictor
from rest_deploy.preprocess.images import load_image
from rest_deploy.preprocess.transform import transform
from rest_deploy.specs import ImageSize, InputKind, Output, Precision, Preprocessing, TensorSpec
from tests.conftest import IMAGES, ROOT, TINY, slow

PROGRAMS = ROOT / "examples" / "other_languages"
PAGE = ROOT / "docs" / "other-languages.md"
KEY = "rest_deploy"
SMALL = ImageSize(48, 64)
GREY = {"mean": (0.4,), "std": (0.3,)}
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")

#: Name of a case -> what is exported.
CASES: dict[str, dict[str, Any]] = {
    "native": {"preprocessing": Preprocessing("native", None)},
    "crop": {"preprocessing": Preprocessing("crop", SMALL)},
    "warp": {"preprocessing": Preprocessing("warp", SMALL, interpolation="bilinear", alpha="drop")},
    "grey": {"model": replace(TINY, in_channels=1), "preprocessing": Preprocessing("crop", SMALL, **GREY)},
    "two channels": {"model": replace(TINY, in_channels=2)},
    "fp16": {
        "preprocessing": Preprocessing("crop", SMALL),
        "precision": Precision.FP16,
        "options": {"half_io": True},
    },
    "int8": {"preprocessing": Preprocessing("crop", SMALL), "precision": Precision.INT8},
}
#: With the slow ones marked: in the first lane one of each way to the input, and one that is not FP32.
CASES_HERE = ("native", "crop", "int8", *slow(case for case in CASES if case not in ("native", "crop", "int8")))

#: Of the programs that take float32 alone.
CASES_ELSEWHERE = [case for case in CASES if case != "fp16"]
#: Name of a case -> what is exported to take pictures.
TAKING_PICTURES: dict[str, dict[str, Any]] = {
    "pixels, crop": {"preprocessing": Preprocessing("crop", SMALL)},
    "pixels, grey": {"model": replace(TINY, in_channels=1), "preprocessing": Preprocessing("warp", SMALL, **GREY)},
    "pixels, native": {"preprocessing": Preprocessing("native", None)},
}
#: What `make others` puts here, for the programs in other languages than Python.
OTHERS = ROOT / ".venv-others"
#: Of the largest logit: how far another version of ONNX Runtime may be off. The same one agrees to the last bit.
_OTHER_VERSION = 1e-5


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a case, exported once."""
    folder, made = tmp_path_factory.mktemp("files"), {}

    def get(case: str) -> Path:
        if case not in made:
            request = {"model": TINY, "labels": "none", **(CASES | TAKING_PICTURES)[case]}
            if case in TAKING_PICTURES:
                request |= {"input": InputKind.PIXELS}
            if request.get("precision", Precision.FP32) is not Precision.FP32:
                request["options"] = {**request.get("options", {}), "compare_speed": False}
            made[case] = run_export(ExportRequest(output=folder / f"{case}.onnx", **request)).path
        return made[case]

    return get


# -- the vector


@pytest.mark.parametrize("case", CASES_HERE)
def test_the_vector_is_what_the_predictor_gives(file_of: Callable[[str], Path], case: str) -> None:
    with Predictor(file_of(case)) as predictor:
        vector, precision = predictor.info.test_vector, predictor.info.precision
        assert vector is not None
        told = vector["input"]
        if "picture" in vector:
            batch = predictor.preprocess(base64.b64decode(vector["picture"]))
            assert len(told["samples"]) == 32
            assert [float(batch.flat[place]) for place, _ in told["samples"]] == [value for _, value in told["samples"]]
            assert told["tolerance"] == pytest.approx(0.1 / 255 / max(predictor.info.preprocessing.std))  # type: ignore[union-attr]
        else:
            batch = np.frombuffer(base64.b64decode(told["values"]), "<f4").reshape(told["shape"])
        assert list(batch.shape) == told["shape"]
        off = np.abs(predictor.logits(batch)[0] - vector["logits"]["values"]).max()
    assert off <= vector["logits"]["tolerance"]
    largest = max(map(abs, vector["logits"]["values"]))
    if precision is Precision.FP32:
        assert off < 1e-5 * largest
    assert vector["logits"]["tolerance"] < 0.5 * largest  # a network that answers nothing would be found


def test_there_is_no_vector_of_what_was_not_verified(tmp_path: Path) -> None:
    result = run_export(ExportRequest(TINY, tmp_path / "x.onnx", verify=False))
    assert result.info.test_vector is None
    assert "test_vector" not in _record(result.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        Preprocessing("crop", size, ratio, interpolation=name)
        for size in (ImageSize(28, 28), ImageSize(48, 64), ImageSize(224, 224), ImageSize(512, 512))
        for ratio in (0.875, 1.0)
        for name in FILTERS[1:]
    ]
    + [Preprocessing("warp", size) for size in (ImageSize(64, 48), ImageSize(384, 384))],
    ids=str,
)
@pytest.mark.parametrize("fault", ["no antialiasing", "swapped channels", "one pixel to the right", "another filter"])
def test_the_samples_show_faults(steps: Preprocessing, fault: str) -> None:
    vector = make_test_vector(_info(steps), _zeros)
    picture = load_image(base64.b64decode(vector["picture"]))
    if fault == "no antialiasing":
        faulty = transform(_not_antialiased(picture, steps), steps)
    elif fault == "swapped channels":
        faulty = transform(picture, steps)[::-1]
    elif fault == "one pixel to the right":
        faulty = np.roll(transform(picture, steps), 1, axis=2)
    else:
        other = {"bilinear": "bicubic", "bicubic": "bilinear", "lanczos": "bicubic"}[steps.interpolation.value]
        faulty = transform(picture, replace(steps, interpolation=other))
    assert _off(vector, faulty) > 10 * vector["input"]["tolerance"]
    assert _off(vector, transform(picture, steps)) == 0


@pytest.mark.parametrize("size", [ImageSize(1, 1), ImageSize(1, 700), ImageSize(2000, 3)])
@pytest.mark.parametrize("resize", ["crop", "warp"])
def test_any_size_has_a_vector(size: ImageSize, resize: str) -> None:
    vector = make_test_vector(_info(Preprocessing(resize, size)), _zeros)
    assert vector["input"]["shape"] == [1, 3, size.height, size.width]


def test_a_large_network_input_is_not_run() -> None:
    def fail(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        raise AssertionError(f"run at {batch.shape}")

    vector = make_test_vector(_info(Preprocessing("crop", ImageSize(1400, 1400))), fail)
    assert vector["logits"] is None
    assert len(vector["input"]["samples"]) == 32


def _info(steps: Preprocessing) -> ArtifactInfo:
    return ArtifactInfo(
        format="onnx",
        precision=Precision.FP32,
        family="rest",
        model="tiny",
        config={},
        weights=Weights(None, None, None),
        labels=None,
        preprocessing=steps,
        input=TensorSpec("image", "float32", ("batch", len(steps.mean), "height", "width")),
        outputs=(Output("logits", "float32", ("batch", 7)),),
    )


def _zeros(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {"logits": np.zeros((len(batch), 7), np.float32)}


def _not_antialiased(picture: Image.Image, steps: Preprocessing) -> Image.Image:
    """A picture of the size that the transform resizes to, so that it only cuts out."""
    assert steps.size is not None
    short = int(max(steps.size.height, steps.size.width) / steps.crop_ratio)
    width, height = int(short * picture.width / picture.height), short
    if steps.resize.value == "warp":
        width, height = steps.size.width, steps.size.height
    scale = (picture.width / width, 0, 0, 0, picture.height / height, 0)
    filters = {"bilinear": Image.Resampling.BILINEAR}
    resample = filters.get(steps.interpolation.value, Image.Resampling.BICUBIC)
    return picture.transform((width, height), Image.Transform.AFFINE, scale, resample)


def _off(vector: dict[str, Any], values: NDArray[np.float32]) -> float:
    return max(abs(float(values.flat[place]) - value) for place, value in vector["input"]["samples"])


# -- Python


@pytest.mark.parametrize("name", ["classify.py", "pixels.py"])
def test_the_python_program_needs_nothing_of_ours(name: str) -> None:
    tree = ast.parse((PROGRAMS / name).read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}


@pytest.mark.parametrize("case", CASES_HERE)
def test_the_python_program_agrees_with_the_predictor(
    file_of: Callable[[str], Path], pictures: list[Path], case: str
) -> None:
    given = [] if case == "two channels" else pictures
    done = _run([sys.executable, PROGRAMS / "classify.py", file_of(case), *given])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test vector: ") == (1 if case == "two channels" else 2)
    _same_answers(file_of(case), given, done.stdout)


@pytest.mark.slow
def test_the_python_program_takes_the_shared_exports(lite_onnx: Path, tiny_onnx: Path) -> None:
    for file in (lite_onnx, tiny_onnx):
        given = [IMAGES / "rocket.jpg"]
        done = _run([sys.executable, PROGRAMS / "classify.py", file, *given])
        assert done.returncode == 0, done.stderr
        _same_answers(file, given, done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.485, 0.456, 0.41]},
        {"std": [0.229, 0.224, 0.23]},
        {"crop_ratio": 0.9},
        {"interpolation": "bilinear"},
        {"resize": "warp"},
        {"size": [48, 48]},
    ],
    ids=str,
)
def test_a_record_that_says_another_transform_is_found(
    file_of: Callable[[str], Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    record = _record(file_of("crop"))
    record["preprocessing"].update(change)
    done = _run([sys.executable, PROGRAMS / "classify.py", _with_record(file_of("crop"), record, tmp_path)])
    assert done.returncode == 1
    assert "does not come out" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 6])
def test_other_weights_are_found(file_of: Callable[[str], Path], tmp_path: Path, place: int) -> None:
    record = _record(file_of("crop"))
    logits = record["test_vector"]["logits"]
    logits["values"][place] += 3 * logits["tolerance"]
    done = _run([sys.executable, PROGRAMS / "classify.py", _with_record(file_of("crop"), record, tmp_path)])
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (
            "return image.resize((w, h), resample).crop(box)",
            "return image.transform((w, h), 0, (image.width / w, 0, 0, 0, image.height / h, 0), 3).crop(box)",
        ),
        ('/ np.float32(steps["std"])', ""),
        (".crop(box)", ".crop((left + 1, top, left + 1 + width, top + height))"),
        ('return image.convert("RGB")', 'return Image.merge("RGB", image.convert("RGB").split()[::-1])'),
    ],
)
def test_a_fault_in_the_program_is_found(
    file_of: Callable[[str], Path], tmp_path: Path, right: str, wrong: str
) -> None:
    text = (PROGRAMS / "classify.py").read_text()
    assert text.count(right) == 1
    program = tmp_path / "classify.py"
    program.write_text(text.replace(right, wrong))
    assert _run([sys.executable, program, file_of("crop")]).returncode == 1


# -- JavaScript


@pytest.mark.slow
def test_javascript_resizes_exactly_as_pillow(tmp_path: Path, rng: np.random.Generator) -> None:
    cases, sources, wanted = [], [], []
    for index in range(200):
        height, width, new_height, new_width = (int(n) for n in rng.integers(1, 120, 4))
        if _PILLOW < 13 and height - new_height > 2 * max(width - new_width, 0):
            new_height = height  # the passes are in the other order
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        source = noise if index % 2 else noise // 128 * 255  # as hard as can be: black and white
        name, box = FILTERS[index // 2 % 4], None
        if index % 5 == 0 and min(height, width) > 4:
            box = [float(n) for n in (*rng.uniform(0, 2, 2), *(np.array([width, height]) - rng.uniform(0, 2, 2)))]
        resample = getattr(Image.Resampling, name.upper())
        wanted.append(np.asarray(Image.fromarray(source).resize((new_width, new_height), resample, box=box)))
        sources.append(source)
        cases.append([width, height, new_width, new_height, name, box])
    script = """
        ([width, height, newWidth, newHeight, name, box], data) =>
            resize({ data, width, height }, newWidth, newHeight, name, box ?? undefined).data"""
    out = _javascript(tmp_path, "resize", script, cases, sources)
    assert out == b"".join(array.tobytes() for array in wanted)


@pytest.mark.slow
def test_javascript_makes_the_input(tmp_path: Path, rng: np.random.Generator) -> None:
    cases, sources, wanted = [], [], []
    for steps in (
        *(Preprocessing("crop", SMALL, 0.9, interpolation=name) for name in FILTERS),
        Preprocessing("crop", ImageSize(33, 33), 1.0),  # offsets of halves
        Preprocessing("crop", SMALL, alpha="drop", **GREY),
        Preprocessing("warp", SMALL),
        Preprocessing("native", None),
    ):
        for height, width in ((50, 90), (61, 52), (40, 40), (9, 100), (100, 9)):
            source = rng.integers(0, 256, (height, width, 4), np.uint8)
            if _PILLOW < 13 and height == 100:
                continue
            cases.append([width, height, steps.to_dict()])
            sources.append(source)
            wanted.append(transform(load_image(source, steps.alpha), steps))
    script = "([width, height, steps], data) => new Uint8Array(preprocess({ data, width, height }, steps).data.buffer)"
    out = np.frombuffer(_javascript(tmp_path, "preprocess", script, cases, sources), "<f4")
    np.testing.assert_allclose(out, np.concatenate([array.ravel() for array in wanted]), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES_ELSEWHERE)
def test_the_node_program_agrees_with_the_predictor(
    file_of: Callable[[str], Path], tmp_path: Path, pictures: list[Path], case: str
) -> None:
    program = _node_program(tmp_path)
    given = [path for path in pictures if "16" not in path.name and case != "two channels"]
    done = _run(["node", program, file_of(case), *given])
    assert done.returncode == 0, done.stderr
    _same_answers(file_of(case), given, done.stdout)


@pytest.mark.slow
def test_the_node_program_finds_faults(file_of: Callable[[str], Path], tmp_path: Path) -> None:
    program = _node_program(tmp_path)
    record = _record(file_of("crop"))
    record["preprocessing"]["mean"][2] += 0.01
    done = _run(["node", program, _with_record(file_of("crop"), record, tmp_path)])
    assert done.returncode == 1
    assert "another input" in done.stderr
    done = _run(["node", program, file_of("fp16")])
    assert done.returncode == 1
    assert "float16" in done.stderr


# -- C++


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES_ELSEWHERE)
def test_the_cpp_program_agrees_with_the_predictor(
    file_of: Callable[[str], Path], compiled: Callable[[str], Path], pictures: list[Path], case: str
) -> None:
    program = compiled("classify")
    given = [path for path in pictures if path.name not in ("16bit.png", "turned.png") and case != "two channels"]
    done = _run([program, file_of(case), *given])
    assert done.returncode == 0, done.stderr
    _same_answers(file_of(case), given, done.stdout)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A C++ program by its name, with ONNX Runtime as Python has it: of that comes no header, but the library."""
    folder, made = tmp_path_factory.mktemp("compiled"), {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = _compiled(name, folder)
        return made[name]

    return get


def _compiled(name: str, folder: Path) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("the package of ONNX Runtime has no library for Linux in it")
    for link in ("libonnxruntime.so", "libonnxruntime.so.1"):
        if not (folder / link).exists():
            (folder / link).symlink_to(library)
    places = [base / "usr" / "include" for base in (OTHERS, Path("/"))]
    headers = [f"-isystem{place / part}" for place in places for part in ("onnxruntime", "stb")]
    headers += [f"-isystem{OTHERS / 'usr' / 'include'}"]
    source, program = PROGRAMS / f"{name}.cpp", folder / name
    if _run([compiler, "-std=c++17", "-M", "-MF", os.devnull, *headers, source]).returncode:
        pytest.skip("headers of ONNX Runtime, stb_image and nlohmann/json are not installed; make others brings them")
    linked = [f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}", "-o", program]
    done = _run([compiler, "-std=c++17", "-O2", *headers, source, *linked])
    assert done.returncode == 0, done.stderr
    return program


# -- files that take pictures


@pytest.mark.parametrize("case", ["pixels, crop", *slow(["pixels, grey", "pixels, native"])])
def test_python_gives_the_predictors_logits(file_of: Callable[[str], Path], pictures: list[Path], case: str) -> None:
    given = _plain(pictures)
    done = _run([sys.executable, PROGRAMS / "pixels.py", file_of(case), *given])
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(_printed(done.stdout, given), _wanted(file_of(case), given))


@pytest.mark.slow
@pytest.mark.parametrize("case", TAKING_PICTURES)
def test_node_gives_the_predictors_logits(
    file_of: Callable[[str], Path], tmp_path: Path, pictures: list[Path], case: str
) -> None:
    given = _plain(pictures)
    program = _node_program(tmp_path, "pixels.mjs")
    done = _run(["node", program, file_of(case), *given])
    assert done.returncode == 0, done.stderr
    found, wanted = _printed(done.stdout, given), _wanted(file_of(case), given)
    package = json.loads((program.parent / "node_modules" / "onnxruntime-node" / "package.json").read_text())
    same = package["version"] == onnxruntime.__version__
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0 if same else _OTHER_VERSION * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("case", TAKING_PICTURES)
def test_cpp_gives_the_predictors_logits(
    file_of: Callable[[str], Path], compiled: Callable[[str], Path], pictures: list[Path], case: str
) -> None:
    given = [path for path in _plain(pictures) if path.name != "turned.png"]
    done = _run([compiled("pixels"), file_of(case), *given])
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(_printed(done.stdout, given), _wanted(file_of(case), given))


@pytest.mark.slow
def test_cpp_says_what_is_wrong(
    file_of: Callable[[str], Path], compiled: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for argv in ([tmp_path / "none.onnx"], [file_of("pixels, crop"), tmp_path / "text.png"], []):
        done = _run([compiled("pixels"), *argv])
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1


def test_programs_that_resize_refuse_files_that_do(file_of: Callable[[str], Path]) -> None:
    done = _run([sys.executable, PROGRAMS / "classify.py", file_of("pixels, crop"), IMAGES / "chelsea.png"])
    assert done.returncode == 1
    assert done.stderr == "the file takes uint8 pictures and makes the input itself: pixels.py is for it\n"


@pytest.mark.slow
def test_node_refuses_files_that_resize(file_of: Callable[[str], Path], tmp_path: Path) -> None:
    done = _run(["node", _node_program(tmp_path), file_of("pixels, crop")])
    assert done.returncode == 1
    assert "pixels.mjs is for it" in done.stderr


def _plain(pictures: list[Path]) -> list[Path]:
    """Those whose pixels all decoders agree on; JPEG is not among them."""
    return [path for path in pictures if path.name not in ("rgba.png", "16bit.png")]


def _printed(text: str, pictures: list[Path]) -> NDArray[np.float32]:
    """Logits that a program printed, by picture; nine digits tell float32 exactly."""
    lines = [line.split(": ") for line in text.splitlines()]
    assert [path for path, _ in lines] == [str(path) for path in pictures]
    return np.array([values.split() for _, values in lines]).astype(np.float32)


def _wanted(file: Path, pictures: list[Path]) -> NDArray[np.float32]:
    """Logits of the predictor."""
    with Predictor(file) as predictor:
        return np.concatenate([predictor.logits(predictor.preprocess(path)) for path in pictures])


# -- the page


def test_the_page_links_to_what_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", PAGE.read_text())
    programs = [path.name for pattern in ("[cC]lassify.*", "pixels.*") for path in PROGRAMS.glob(pattern)]
    assert {f"../examples/other_languages/{name}" for name in programs} <= set(links)
    assert all((PAGE.parent / link).exists() for link in links)


# -- what they share


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of every kind that has a rule: transparent, turned by EXIF, grey, with a palette, 16-bit, very long."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(5)
    photo = Image.open(IMAGES / "chelsea.png").resize((90, 60))
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "rgba.png": Image.fromarray(rng.integers(0, 256, (50, 70, 4), np.uint8)),
        "grey.png": photo.convert("L"),
        "palette.png": photo.quantize(16),
        "16bit.png": Image.fromarray(rng.integers(0, 65536, (50, 70)).astype(np.uint16)),
        "long.png": photo.resize((600, 10)),
    }
    for name, image in made.items():
        image.save(folder / name)
    photo.save(folder / "turned.png", exif=turned)
    return [IMAGES / "chelsea.png", folder / "turned.png", *(folder / name for name in made)]


_PILLOW = int(Image.__version__.split(".")[0])


def _run(argv: list[Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False, cwd=ROOT)


def _record(path: Path) -> dict[str, Any]:
    (text,) = (entry.value for entry in onnx.load(path).metadata_props if entry.key == KEY)
    record: dict[str, Any] = json.loads(text)
    return record


def _with_record(path: Path, record: dict[str, Any], folder: Path) -> Path:
    """A copy with another record."""
    model, changed = onnx.load(path), folder / "changed.onnx"
    assert model.metadata_props[0].key == KEY
    model.metadata_props[0].value = json.dumps(record)
    onnx.save(model, changed)
    return changed


def _same_answers(file: Path, pictures: list[Path], printed: str) -> None:
    """What a program printed is what the predictor says; scores to their last figure but for rounding."""
    lines = [line.rsplit(": ", 1) for line in printed.splitlines() if not line.startswith("test vector")]
    with Predictor(file) as predictor:
        wanted = [(path, p) for path in pictures for p in predictor.classify(path, top_k=5)]
        labels = predictor.info.labels
    assert [path for path, _ in lines] == [str(path) for path, _ in wanted]
    for (_, told), (_, prediction) in zip(lines, wanted, strict=True):
        score, label = told.split(" ", 1)
        assert label == (prediction.label if labels else str(prediction.index))
        assert float(score) == pytest.approx(prediction.score, abs=2e-4)


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    return node


def _javascript(folder: Path, name: str, script: str, cases: list[Any], sources: list[NDArray[np.uint8]]) -> bytes:
    """What a function of preprocess.mjs gives for each case and its pixels, as bytes."""
    node = _node()
    (folder / "in.bin").write_bytes(b"".join(source.tobytes() for source in sources))
    (folder / "cases.json").write_text(
        json.dumps([[case, source.size] for case, source in zip(cases, sources, strict=True)])
    )
    (folder / "run.mjs").write_text(
        f"""
        import {{ readFileSync, writeFileSync }} from "node:fs";
        import {{ {name} }} from {json.dumps((PROGRAMS / "preprocess.mjs").as_uri())};
        const [folder, call] = [process.argv[2], {script}];
        const pixels = readFileSync(folder + "/in.bin"), out = [];
        let at = 0;
        for (const [given, size] of JSON.parse(readFileSync(folder + "/cases.json")))
          out.push(call(given, pixels.subarray(at, (at += size))));
        writeFileSync(folder + "/out.bin", Buffer.concat(out));
        """
    )
    done = _run([node, folder / "run.mjs", folder])
    assert done.returncode == 0, done.stderr
    return (folder / "out.bin").read_bytes()


def _node_program(folder: Path, name: str = "classify.mjs") -> Path:
    """A program beside the packages that it needs, which only `make others` installs here."""
    _node()
    places = [Path(place) for place in os.environ.get("NODE_PATH", "").split(os.pathsep) if place]
    for place in (*places, ROOT / "node_modules", OTHERS / "node_modules"):
        if (place / "onnxruntime-node").is_dir() and (place / "sharp").is_dir():
            break
    else:
        pytest.skip("onnxruntime-node and sharp are in no folder of NODE_PATH; make others brings them")
    (folder / "node_modules").symlink_to(place)
    for file in (name, "preprocess.mjs"):
        shutil.copy(PROGRAMS / file, folder)
    return folder / name
