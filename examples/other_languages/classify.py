"""Classify pictures with an exported .onnx file; needs NumPy, Pillow and ONNX Runtime, not rest_deploy.

    python classify.py FILE.onnx [PICTURE...]

The test vector of the file is checked first; where it does not come out, the exit code is 1.
"""

import base64
import io
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def to_rgb(image, alpha):
    """Step 1: upright, 8 bits a channel, RGB."""
    image = ImageOps.exif_transpose(image)
    if alpha == "drop":
        image.info.pop("transparency", None)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow itself would cut off at 255
        grey = (np.asarray(image).astype(np.int64) * 255 + 32767) // 65535
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if alpha == "white" and image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return image.convert("RGB")


def resize(image, steps):
    """Step 2: to the size that the network sees."""
    if steps["resize"] == "native":
        return image
    (height, width), resample = steps["size"], FILTERS[steps["interpolation"]]
    if steps["resize"] == "warp":
        return image.resize((width, height), resample)
    short = int(max(height, width) / steps["crop_ratio"])
    if image.width <= image.height:
        w, h = short, int(short * image.height / image.width)
    else:
        w, h = int(short * image.width / image.height), short
    left, top = round((w - width) / 2), round((h - height) / 2)
    box = (left, top, left + width, top + height)
    if max(w, h) <= 8 * short:
        return image.resize((w, h), resample).crop(box)
    x, y = image.width / w, image.height / h  # very long pictures: only the part that is cut out is resized
    return image.resize((width, height), resample, box=(box[0] * x, box[1] * y, box[2] * x, box[3] * y))


def to_input(image, steps):
    """Steps 1 to 4: a Pillow image -> float32 (1, channels, height, width)."""
    image = resize(to_rgb(image, steps["alpha"]), steps)
    if steps["channels"] == "grey":
        image = image.convert("L")
    pixels = np.asarray(image, np.float32).reshape(image.height, image.width, -1) / np.float32(steps["divide_by"])
    pixels = (pixels - np.float32(steps["mean"])) / np.float32(steps["std"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def logits_of(session, record, batch):
    """(B, channels, height, width) -> (B, classes)."""
    batch = batch.astype(record["input"]["dtype"])  # float16 of a file that was exported with --half-io
    return session.run(["logits"], {record["input"]["name"]: batch})[0].astype(np.float32)


def check(session, record):
    """Whether the test vector comes out; None where the file has none."""
    vector = record.get("test_vector")
    if vector is None:
        return None
    told = vector["input"]
    if "picture" in vector:
        picture = Image.open(io.BytesIO(base64.b64decode(vector["picture"])))
        batch = to_input(picture, record["preprocessing"])
        if list(batch.shape) != told["shape"]:
            print(f"test vector: input is of shape {list(batch.shape)}, needed: {told['shape']}")
            return False
        off = max(abs(float(batch.flat[place]) - value) for place, value in told["samples"])
        print(f"test vector: input is off by {off:.1e}, allowed {told['tolerance']:.1e}")
        if not off <= told["tolerance"]:
            return False
    else:
        batch = np.frombuffer(base64.b64decode(told["values"]), "<f4").reshape(told["shape"])
    if vector["logits"] is None:
        return True
    off = float(np.abs(logits_of(session, record, batch)[0] - vector["logits"]["values"]).max())
    print(f"test vector: logits are off by {off:.1e}, allowed {vector['logits']['tolerance']:.1e}")
    return off <= vector["logits"]["tolerance"]


def scores_of(logits, activation):
    """Step 5: (classes,) logits -> (classes,) scores."""
    if activation == "softmax":
        powers = np.exp(logits - logits.max())
        return powers / powers.sum()
    return 1 / (1 + np.exp(-logits)) if activation == "sigmoid" else logits


def main():
    """Check the file, then classify."""
    file, *pictures = sys.argv[1:]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    record = json.loads(session.get_modelmeta().custom_metadata_map["rest_deploy"])
    if record["input"]["dtype"] == "uint8":
        sys.exit("the file takes uint8 pictures and makes the input itself: pixels.py is for it")
    right = check(session, record)
    if right is None:
        print("test vector: none (exported with --no-verify)")
    elif not right:
        sys.exit("the test vector does not come out: preprocessing or runtime differ from what the file was made with")
    labels = record["labels"]
    for path in pictures:
        with Image.open(path) as picture:
            batch = to_input(picture, record["preprocessing"])
        scores = scores_of(logits_of(session, record, batch)[0].astype(np.float64), record["activation"])
        for index in np.argsort(-scores, kind="stable")[:5]:
            print(f"{path}: {scores[index]:.4f} {labels[index] if labels else index}")


if __name__ == "__main__":
    main()
