// Weights as weights.py packs them, in bytes or in base64, unpacked to float32.

/** A number in half precision from its 16 bits. */
function half(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
  return bits & 0x8000 ? -size : size;
}

/** `count` numbers in half precision: all low bytes stand before all high ones. */
const halves = (bytes, count) =>
  Float32Array.from({ length: count }, (_, i) => half(bytes[i] | (bytes[i + count] << 8)));

/** What a page has is base64, which is read here, not where the page would stand still meanwhile. */
const bytesOf = (packed) =>
  typeof packed === "string" ? Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0)) : packed;

async function inflate(packed) {
  try {
    const stream = new Response(bytesOf(packed)).body.pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Error("the weights are damaged: they cannot be unpacked");
  }
}

/** The weights of a model. */
export async function unpack(packed) {
  const found = await inflate(packed);
  if (found.length % 2) throw new Error(`the weights are damaged: ${found.length} bytes`);
  return halves(found, found.length / 2);
}

/** The weights of a model that is packed as its difference from another; it may have a head besides. */
export async function unpackDifference(packed, base, width) {
  const found = await inflate(packed);
  const rows = found.length / (width + 2);
  const size = rows * width;
  if (size !== base.length && size !== base.length + width) {
    const expected = (base.length / width) * (width + 2);
    throw new Error(
      `the weights are damaged: ${found.length} bytes; expected ${expected}, or with a head more`,
    );
  }
  const scales = halves(found, rows);
  const steps = new Int8Array(found.buffer, 2 * rows, size);
  const start = (i) => (i < base.length ? base[i] : 0);
  return Float32Array.from(steps, (step, i) => start(i) + step * scales[Math.floor(i / width)]);
}
