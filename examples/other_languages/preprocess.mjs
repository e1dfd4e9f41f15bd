// Pixels to the network's input in plain JavaScript, for Node and browsers; resizes exactly as Pillow does.

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

// How far each filter reaches, and its value at a distance of at least 0.
const FILTERS = {
  bilinear: [1, (x) => (x < 1 ? 1 - x : 0)],
  bicubic: [2, (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0)],
  lanczos: [3, (x) => (x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

// For each of `to` pixels: the first of the `from` pixels that it is made of, and their weights in units of 2^-22.
function weightsOf(filter, from, to, begin, end) {
  const [reach, value] = FILTERS[filter];
  const scale = Math.fround(end - begin) / to;
  const stretch = Math.max(scale, 1); // the filter grows with the scale, which is the antialiasing
  return Array.from({ length: to }, (_, i) => {
    const centre = begin + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(centre + reach * stretch + 0.5), from);
    const weights = [];
    for (let x = first; x < last; x++) weights.push(value(Math.abs((x - centre + 0.5) * (1 / stretch))));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => Math.trunc((w / sum) * 2 ** 22 + (w < 0 ? -0.5 : 0.5))) };
  });
}

// RGB pixels with another width. Between the two passes values are rounded to 8 bits.
function across({ data, width, height }, newWidth, filter, left, right) {
  const out = new Uint8Array(newWidth * height * 3);
  weightsOf(filter, width, newWidth, left, right).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++)
      for (let c = 0; c < 3; c++) {
        let sum = 2 ** 21;
        for (let k = 0; k < weights.length; k++) sum += data[(y * width + first + k) * 3 + c] * weights[k];
        out[(y * newWidth + x) * 3 + c] = Math.min(Math.max(sum >> 22, 0), 255);
      }
  });
  return { data: out, width: newWidth, height };
}

// RGB pixels with another height.
function down({ data, width, height }, newHeight, filter, top, bottom) {
  const out = new Uint8Array(width * newHeight * 3);
  weightsOf(filter, height, newHeight, top, bottom).forEach(({ first, weights }, y) => {
    for (let i = 0; i < width * 3; i++) {
      let sum = 2 ** 21;
      for (let k = 0; k < weights.length; k++) sum += data[(first + k) * width * 3 + i] * weights[k];
      out[y * width * 3 + i] = Math.min(Math.max(sum >> 22, 0), 255);
    }
  });
  return { data: out, width, height: newHeight };
}

function nearest({ data, width, height }, newWidth, newHeight, [left, top, right, bottom]) {
  const places = (from, to, begin, end) => {
    const [result, scale] = [[], Math.fround(end - begin) / to];
    for (let i = 0, at = begin + scale * 0.5; i < to; i++, at += scale) result.push(Math.min(Math.trunc(at), from - 1));
    return result;
  };
  const [xs, ys] = [places(width, newWidth, left, right), places(height, newHeight, top, bottom)];
  const out = new Uint8Array(newWidth * newHeight * 3);
  let o = 0;
  for (const y of ys) for (const x of xs) for (let c = 0; c < 3; c++) out[o++] = data[(y * width + x) * 3 + c];
  return { data: out, width: newWidth, height: newHeight };
}

// RGB pixels of a box of the image -> RGB pixels of another size.
export function resize(image, newWidth, newHeight, filter, box = [0, 0, image.width, image.height]) {
  const [left, top, right, bottom] = box.map(Math.fround);
  if (filter === "nearest") return nearest(image, newWidth, newHeight, [left, top, right, bottom]);
  if (image.height - newHeight > 2 * Math.max(image.width - newWidth, 0)) // Pillow 13; before it, never
    return across(down(image, newHeight, filter, top, bottom), newWidth, filter, left, right);
  return down(across(image, newWidth, filter, left, right), newHeight, filter, top, bottom);
}

// Half of a whole number of at least 0, halves to the even one.
const half = (n) => (n % 4 === 3 ? (n + 1) / 2 : Math.floor(n / 2));

function toSize(image, steps) {
  if (steps.resize === "native") return image;
  const [height, width] = steps.size;
  if (steps.resize === "warp") return resize(image, width, height, steps.interpolation);
  const short = Math.trunc(Math.max(height, width) / steps.crop_ratio);
  const tall = image.width <= image.height;
  const w = tall ? short : Math.trunc((short * image.width) / image.height);
  const h = tall ? Math.trunc((short * image.height) / image.width) : short;
  const [left, top] = [half(w - width), half(h - height)];
  if (Math.max(w, h) > 8 * short) { // very long pictures: only the part that is cut out is resized
    const [x, y] = [image.width / w, image.height / h];
    const box = [left * x, top * y, (left + width) * x, (top + height) * y];
    return resize(image, width, height, steps.interpolation, box);
  }
  const whole = resize(image, w, h, steps.interpolation);
  const out = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const start = ((top + y) * w + left) * 3;
    out.set(whole.data.subarray(start, start + width * 3), y * width * 3);
  }
  return { data: out, width, height };
}

// RGBA pixels, upright, not premultiplied (as ImageData has them) -> { data: Float32Array, dims: [1, C, H, W] }.
export function preprocess({ data, width, height }, steps) {
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    const alpha = steps.alpha === "white" ? data[i * 4 + 3] : 255;
    for (let c = 0; c < 3; c++) rgb[i * 3 + c] = Math.round((data[i * 4 + c] * alpha + 255 * (255 - alpha)) / 255);
  }
  const image = toSize({ data: rgb, width, height }, steps);
  const [area, channels] = [image.width * image.height, steps.mean.length];
  const out = new Float32Array(channels * area);
  for (let i = 0; i < area; i++) {
    const [r, g, b] = image.data.subarray(i * 3, i * 3 + 3);
    const values = channels === 3 ? [r, g, b] : [(r * 19595 + g * 38470 + b * 7471 + 32768) >> 16];
    values.forEach((v, c) => (out[c * area + i] = (v / steps.divide_by - steps.mean[c]) / steps.std[c]));
  }
  return { data: out, dims: [1, channels, image.height, image.width] };
}
