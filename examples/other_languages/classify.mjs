// Classify pictures with an exported .onnx file: node classify.mjs FILE.onnx [PICTURE...]
// Needs onnxruntime-node and sharp, which only decodes. The test vector is checked first; exit code 1 where it fails.
import { readFileSync } from "node:fs";
import { InferenceSession, Tensor } from "onnxruntime-node";
import sharp from "sharp";
import { preprocess } from "./preprocess.mjs";

// ONNX Runtime's JavaScript API does not give the metadata, so the record is read from the file: a protobuf message,
// whose field 14 is an entry of the metadata, with the key in field 1 and the value in field 2.
function recordOf(content) {
  let record;
  for (const [number, entry] of fieldsOf(content)) {
    if (number !== 14) continue;
    const parts = new Map(fieldsOf(entry));
    const text = (field) => new TextDecoder().decode(parts.get(field));
    if (text(1) === "rest_deploy") record = text(2); // of several the last one counts
  }
  if (record === undefined) throw new Error("the file has no record of rest_deploy");
  return JSON.parse(record);
}

function* fieldsOf(message) {
  let at = 0;
  const number = () => {
    for (let value = 0, unit = 1; ; unit *= 128) {
      const byte = message[at++];
      value += (byte & 127) * unit;
      if (!(byte & 128)) return value;
    }
  };
  while (at < message.length) {
    const tag = number();
    const size = { 0: 0, 1: 8, 2: 2, 5: 4 }[tag % 8];
    if (size === 0) { number(); continue; }
    const length = size === 2 ? number() : size;
    yield [Math.floor(tag / 8), message.subarray(at, at + length)];
    at += length;
  }
}

// Upright, 8 bits a channel, RGBA, no colour management.
async function decode(picture) {
  const pixels = sharp(picture, { ignoreIcc: true, autoOrient: true }).toColourspace("srgb").ensureAlpha();
  const { data, info } = await pixels.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true });
  return { data, width: info.width, height: info.height };
}

async function logitsOf(session, record, { data, dims }) {
  const result = await session.run({ [record.input.name]: new Tensor("float32", data, dims) });
  return Array.from(result.logits.data);
}

const largest = (values) => values.reduce((a, b) => (a >= b ? a : b)); // NaN goes through, and is no number below

async function check(session, record) {
  const vector = record.test_vector;
  if (!vector) return console.log("test vector: none (exported with --no-verify)");
  const told = vector.input;
  let batch;
  if (vector.picture) {
    batch = preprocess(await decode(Buffer.from(vector.picture, "base64")), record.preprocessing);
    if (`${batch.dims}` !== `${told.shape}`) throw new Error(`an input of ${batch.dims}, needed: ${told.shape}`);
    const off = largest(told.samples.map(([place, value]) => Math.abs(batch.data[place] - value)));
    console.log(`test vector: input is off by ${off.toExponential(1)}, allowed ${told.tolerance.toExponential(1)}`);
    if (!(off <= told.tolerance)) throw new Error("another input than it was");
  } else {
    const content = Uint8Array.from(Buffer.from(told.values, "base64"));
    batch = { data: new Float32Array(content.buffer), dims: told.shape };
  }
  if (!vector.logits) return;
  const { values, tolerance } = vector.logits;
  const off = largest((await logitsOf(session, record, batch)).map((value, i) => Math.abs(value - values[i])));
  console.log(`test vector: logits are off by ${off.toExponential(1)}, allowed ${tolerance.toExponential(1)}`);
  if (!(off <= tolerance)) throw new Error("other logits than they were");
}

function scoresOf(logits, activation) {
  if (activation === "sigmoid") return logits.map((v) => 1 / (1 + Math.exp(-v)));
  if (activation === "none") return logits;
  const powers = logits.map((v) => Math.exp(v - Math.max(...logits)));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((v) => v / sum);
}

const [file, ...pictures] = process.argv.slice(2);
const record = recordOf(readFileSync(file));
if (record.input.dtype === "uint8") throw new Error("the file takes pictures and makes the input itself: pixels.mjs is for it");
if (record.input.dtype !== "float32") throw new Error(`an input of ${record.input.dtype}: export without --half-io`);
const session = await InferenceSession.create(file);
await check(session, record);
for (const path of pictures) {
  const logits = await logitsOf(session, record, preprocess(await decode(readFileSync(path)), record.preprocessing));
  const best = scoresOf(logits, record.activation).map((score, index) => ({ score, index })).sort((a, b) => b.score - a.score);
  for (const { score, index } of best.slice(0, 5))
    console.log(`${path}: ${score.toFixed(4)} ${record.labels ? record.labels[index] : index}`);
}
