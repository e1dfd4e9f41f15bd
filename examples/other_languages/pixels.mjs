// Logits of pictures by a file of `rest-export --input pixels`: node pixels.mjs FILE.onnx PICTURE...
// Needs onnxruntime-node and sharp, which only decodes. The file resizes and normalises. What is left: RGB, 8 bits,
// upright; a transparent picture is taken as stored.
import { InferenceSession, Tensor } from "onnxruntime-node";
import sharp from "sharp";

const [file, ...pictures] = process.argv.slice(2);
const session = await InferenceSession.create(file);
for (const path of pictures) {
  const rgb = sharp(path, { ignoreIcc: true, autoOrient: true }).toColourspace("srgb").removeAlpha();
  const { data, info } = await rgb.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true });
  const pixels = new Tensor("uint8", data, [1, info.height, info.width, 3]);
  const { logits } = await session.run({ pixels });
  console.log(`${path}: ${Array.from(logits.data, (value) => value.toPrecision(9)).join(" ")}`);
}
