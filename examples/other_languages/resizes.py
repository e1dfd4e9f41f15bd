"""How far other resize functions are from Pillow's: in levels of a pixel, and in the logits of a file.

    python examples/other_languages/resizes.py FILE.onnx PICTURE...

The file must crop; its test picture comes first. OpenCV is tried where it can be imported, sharp where node finds it,
Java where it is installed. The table of docs/other-languages.md was made by this.
"""

import base64
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from classify import FILTERS, logits_of, to_rgb
from PIL import Image

SHARP = """
const sharp = require("sharp"); const [from, to, w, h, kernel] = process.argv.slice(1);
sharp(from).resize(+w, +h, { fit: "fill", kernel, fastShrinkOnLoad: false }).png().toFile(to);
"""
JAVA = """
import java.awt.*; import java.awt.image.BufferedImage; import java.io.File; import javax.imageio.ImageIO;
public class Scale { public static void main(String[] a) throws Exception {
  int w = Integer.parseInt(a[2]), h = Integer.parseInt(a[3]);
  BufferedImage out = new BufferedImage(w, h, BufferedImage.TYPE_INT_RGB); Graphics2D g = out.createGraphics();
  g.setRenderingHint(RenderingHints.KEY_INTERPOLATION, RenderingHints.VALUE_INTERPOLATION_BICUBIC);
  g.drawImage(ImageIO.read(new File(a[0])), 0, 0, w, h, null); ImageIO.write(out, "png", new File(a[1])); } }
"""


def by_program(image, size, *command):
    """Resize by a program that reads and writes files."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.png"), Path(folder, "after.png")
        image.save(before)
        (Path(folder) / "Scale.java").write_text(JAVA)
        words = [word.replace("FOLDER", folder) for word in command]
        at = 3 if words[0] == "node" else 2
        words[at:at] = [str(before), str(after), str(size[0]), str(size[1])]
        subprocess.run(words, check=True)
        return np.asarray(Image.open(after).convert("RGB"))


def contenders(filter_name):
    """Name -> function of (Pillow image, (width, height)) -> uint8 (height, width, 3)."""
    resample = FILTERS[filter_name]
    found = {
        "Pillow on float32, as exact as can be": lambda image, size: np.stack(
            [
                np.clip(np.rint(np.asarray(band.convert("F").resize(size, resample))), 0, 255).astype(np.uint8)
                for band in image.split()
            ],
            axis=2,
        ),
        "no antialiasing (Pillow's transform)": lambda image, size: np.asarray(
            image.transform(
                size, Image.Transform.AFFINE, (image.width / size[0], 0, 0, 0, image.height / size[1], 0), resample
            )
        ),
    }
    if importlib.util.find_spec("cv2"):
        import cv2

        for name in ("INTER_CUBIC", "INTER_LINEAR", "INTER_AREA", "INTER_LANCZOS4"):
            found[f"OpenCV {cv2.__version__} {name}"] = lambda image, size, name=name: cv2.resize(
                np.asarray(image), size, interpolation=getattr(cv2, name)
            )
    if shutil.which("node") and subprocess.run(["node", "-e", "require('sharp')"], check=False).returncode == 0:
        for kernel in ("cubic", "mitchell", "lanczos3"):
            found[f"sharp, kernel {kernel}"] = lambda image, size, kernel=kernel: by_program(
                image, size, "node", "-e", SHARP, kernel
            )
    if shutil.which("java"):
        found["Java, Graphics2D bicubic"] = lambda image, size: by_program(image, size, "java", "FOLDER/Scale.java")
    return found


def main():
    """Print the table."""
    file, *paths = sys.argv[1:]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    record = json.loads(session.get_modelmeta().custom_metadata_map["rest_deploy"])
    steps = record["preprocessing"]
    if steps["resize"] != "crop":
        sys.exit(f"{file}: {steps['resize']}; needed: a file that crops")
    test_picture = Image.open(io.BytesIO(base64.b64decode(record["test_vector"]["picture"])))
    pictures = {"test picture": test_picture} | {Path(path).name: Image.open(path) for path in paths}
    (height, width), short = steps["size"], int(max(steps["size"]) / steps["crop_ratio"])

    def logits(pixels):
        values = (pixels.astype(np.float32) / 255 - np.float32(steps["mean"])) / np.float32(steps["std"])
        return logits_of(session, record, values.transpose(2, 0, 1)[None])[0]

    print("| resize | picture | largest, mean difference of a pixel | of a logit, in standard deviations |")
    print("| --- | --- | --- | --- |")
    for name, resize in contenders(steps["interpolation"]).items():
        for title, picture in pictures.items():
            image = to_rgb(picture, steps["alpha"])
            scale = short / min(image.size)
            size = (max(short, int(image.width * scale)), max(short, int(image.height * scale)))
            left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
            cut = (slice(top, top + height), slice(left, left + width))
            right = np.asarray(image.resize(size, FILTERS[steps["interpolation"]]))[cut]
            other = resize(image, size)[cut]
            levels = np.abs(other.astype(int) - right)
            expected = logits(right)
            off = np.abs(logits(other) - expected).max() / expected.std()
            print(f"| {name} | {title} | {levels.max()}, {levels.mean():.2f} | {off:.3f} |")


if __name__ == "__main__":
    main()
