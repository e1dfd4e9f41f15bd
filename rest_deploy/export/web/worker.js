// The network: opened once, checked with the record's test vector, then run for one picture after the other.

import { pixelsOf } from "./pixels.js";

const GZIP = [0x1f, 0x8b];

let page, session, ort;

self.onmessage = async ({ data: { id, start, picture } }) => {
  try {
    self.postMessage(start ? { id, ready: await open(start) } : { id, answer: await answer(picture.file, picture.name) });
  } catch (error) {
    self.postMessage({ id, error: sentence(error), spent: !start && error.spent === true });
  }
};

/** Load onnxruntime-web and the network. */
async function open({ folder, backend, told }) {
  page = told;
  const files = page.backends[backend];
  let done = 0;
  const arrived = (bytes) => self.postMessage({ progress: { done: (done += bytes), of: page.model.bytes + files.bytes } });
  const [model, packed] = await Promise.all([
    fetched(new URL(page.model.file, folder), arrived),
    fetched(new URL(files.wasm, folder), arrived),
  ]);
  await checkModel(model);
  ort = await import(new URL(files.module, folder));
  ort.env.wasm.wasmBinary = await unpacked(packed);
  ort.env.wasm.wasmPaths = { mjs: new URL(files.loader, folder) };
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency) : 1;
  if (backend === "webgpu" && !(await navigator.gpu?.requestAdapter())) throw new Error("there is no GPU that it may use");
  session = await ort.InferenceSession.create(model, {
    executionProviders: [backend],
    enableMemPattern: false, // of one size, and pictures have many
    logSeverityLevel: 3,
  });
  const difference = await checkAnswer();
  return { threads: backend === "wasm" ? ort.env.wasm.numThreads : 0, difference };
}

async function checkModel(bytes) {
  if (bytes.length !== page.model.bytes) throw new Error(`${page.model.file} has ${bytes.length} bytes, and had ` +
    `${page.model.bytes} when the page was made; copy the whole folder again, or clear the browser's cache`);
  if (!self.crypto.subtle) return; // neither https nor localhost
  const digest = new Uint8Array(await self.crypto.subtle.digest("SHA-256", bytes));
  const text = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (text !== page.model.sha256) throw new Error(`${page.model.file} is not the file that the page was made with ` +
    `(SHA-256 ${text.slice(0, 16)}...); copy the whole folder again, or clear the browser's cache`);
}

/** Compare logits with those of the record's test vector: how far they are off, and null where there is none. */
async function checkAnswer() {
  const vector = page.record.test_vector;
  if (!vector?.logits || !vector.picture) return null;
  const picture = Uint8Array.from(atob(vector.picture), (letter) => letter.charCodeAt(0));
  const { logits } = await answer(new Blob([picture], { type: "image/png" }), "the test picture");
  const { values, tolerance } = vector.logits;
  const difference = Math.max(...values.map((value, at) => Math.abs(value - logits[at])));
  if (!(difference <= tolerance)) throw new Error("it gives other logits for the record's test picture than the export: " +
    `${difference.toPrecision(2)} off, at most ${tolerance.toPrecision(2)} is accepted`);
  return difference / Math.max(...values.map(Math.abs));
}

/** Logits of a picture, its size, and how long both steps took. */
async function answer(file, name) {
  const started = performance.now();
  const { width, height, data } = await pixelsOf(file, name, page.record.preprocessing.alpha, (width, height) => {
    if (width * height > page.max_pixels) throw new Error(`${name}: ${width}x${height} are ${width * height} pixels, ` +
      `and this page takes at most ${page.max_pixels}; scale it down first`);
    if (page.max_height && height > page.max_height) throw new Error(`${name}: ${width}x${height} pixels are too tall to ` +
      `be resized here; at most ${page.max_height} are accepted; scale it down first`);
  });
  const decoded = performance.now();
  let logits;
  try {
    const input = new ort.Tensor("uint8", data, [1, height, width, 3]);
    const given = await session.run({ [page.record.input.name]: input }, ["logits"]);
    logits = Float32Array.from(given.logits.data);
  } catch (error) { // out of memory, or the GPU is gone: what ran may not be used again
    throw Object.assign(new Error(`${name}, ${width}x${height} pixels: the network failed: ${sentence(error)}; ` +
      "give a smaller picture"), { spent: true });
  }
  const ran = performance.now();
  if (!logits.every(Number.isFinite)) throw new Error(`${name}: no answer, as its logits are not finite`);
  return { width, height, logits, decode_ms: decoded - started, network_ms: ran - decoded };
}

/** All bytes of a file of the folder. */
async function fetched(url, arrived) {
  const name = url.pathname.split("/").pop();
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Error(`${name} cannot be fetched; is the server that has this page still there?`);
  }
  if (!response.ok) throw new Error(`${name}: the server answers ${response.status}; copy the whole folder to it`);
  const parts = [];
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    arrived(part.value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** WebAssembly as it is, or packed by gzip, which some servers undo on the way. */
async function unpacked(bytes) {
  if (!GZIP.every((byte, at) => bytes[at] === byte)) return bytes.buffer;
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** An error as one line. */
function sentence(error) {
  return String(error?.message ?? error).replace(/\s+/g, " ").trim().slice(0, 400);
}
