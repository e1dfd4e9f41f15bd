// From a file to the pixels that Python reads of it: 8-bit RGB, upright, profiles of colour left aside, transparent
// pixels on white or with their stored colour, as the record says.

const TILE = 2048; // side of what is read at a time: canvases have limits, and each pixel takes four bytes more

/**
 * @param {Blob} file A picture.
 * @param {string} name Of it, for messages.
 * @param {"white"|"drop"} alpha What becomes of transparent pixels.
 * @param {(width: number, height: number) => void} check Throws for a size that is not taken.
 * @returns {Promise<{width: number, height: number, data: Uint8Array}>} Rows of RGB.
 */
export async function pixelsOf(file, name, alpha, check) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      premultiplyAlpha: "none", // drawn on white this gives Pillow's levels; premultiplied ones are up to one off
      colorSpaceConversion: "none",
    });
  } catch {
    throw new Error(`${name}: no picture that this browser reads; give a PNG, JPEG, WebP, GIF or BMP file`);
  }
  try {
    const { width, height } = bitmap;
    check(width, height);
    let data = drawn(bitmap, alpha === "white");
    if (data === null && (await file.slice(0, 3).text()) === "GIF") {
      throw new Error(`${name}: a GIF with transparent pixels, whose stored colours browsers do not tell; save it as PNG`);
    }
    data ??= stored(bitmap, name);
    return { width, height, data };
  } finally {
    bitmap.close();
  }
}

/** RGB as drawn on white; or, not on white, null where a pixel is transparent: its colour is rounded away. */
function drawn(bitmap, white) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(Math.min(TILE, width), Math.min(TILE, height)).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.fillStyle = "#fff";
  const data = new Uint8Array(3 * width * height);
  for (let top = 0; top < height; top += TILE) {
    for (let left = 0; left < width; left += TILE) {
      const wide = Math.min(TILE, width - left);
      const high = Math.min(TILE, height - top);
      if (white) context.fillRect(0, 0, wide, high);
      else context.clearRect(0, 0, wide, high);
      context.drawImage(bitmap, left, top, wide, high, 0, 0, wide, high);
      const tile = context.getImageData(0, 0, wide, high).data;
      for (let y = 0, from = 0; y < high; y++) {
        let to = 3 * ((top + y) * width + left);
        for (let x = 0; x < wide; x++, from += 4) {
          if (tile[from + 3] !== 255) return null;
          data[to++] = tile[from];
          data[to++] = tile[from + 1];
          data[to++] = tile[from + 2];
        }
      }
    }
  }
  return data;
}

/** RGB as the file has it under its transparency, which WebGL alone gives back. */
function stored(bitmap, name) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  const most = gl ? gl.getParameter(gl.MAX_TEXTURE_SIZE) : 0;
  if (Math.max(width, height) > most) {
    const why = gl ? `WebGL takes sides of at most ${most} pixels here` : "this browser has no WebGL";
    throw new Error(`${name}: has transparent pixels, whose stored colours are taken by WebGL, and ${why}; ` +
      "save it without transparency");
  }
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const pixels = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  const failed = gl.getError();
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  if (failed) throw new Error(`${name}: WebGL cannot give its stored colours (error ${failed}); save it without transparency`);
  const data = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < pixels.length; from += 4) {
    data[to++] = pixels[from];
    data[to++] = pixels[from + 1];
    data[to++] = pixels[from + 2];
  }
  return data;
}
