// The features of one image, as GET /v1/images/{id}/features sends them: a safetensors file with float16 patches.

/** Read a safetensors file: tensors as Float32Array, and the strings of its metadata. */
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { __metadata__: metadata = {}, ...entries } = header;
  const tensors = {};
  for (const [
    name,
    {
      dtype,
      shape,
      data_offsets: [start, stop],
    },
  ] of Object.entries(entries)) {
    const bytes = buffer.slice(8 + length + start, 8 + length + stop);
    if (dtype === "F32") tensors[name] = { shape, data: new Float32Array(bytes) };
    else if (dtype === "F16") tensors[name] = { shape, data: fromHalf(new Uint16Array(bytes)) };
    else throw new Error(`the tensor ${name} has the type ${dtype}; expected F16 or F32`);
  }
  return { tensors, metadata };
}

/** IEEE half precision to single, through a table of all 65,536 values. */
export function fromHalf(bits) {
  const table = halfTable();
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = table[bits[i]];
  return out;
}

let halves = null;

function halfTable() {
  if (halves) return halves;
  halves = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) halves[bits] = sign * fraction * 2 ** -24;
    else if (exponent === 31) halves[bits] = fraction ? NaN : sign * Infinity;
    else halves[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return halves;
}

const pair = (text) =>
  text
    .split(/[\s,x]+/)
    .filter(Boolean)
    .map(Number);

/**
 * What the page keeps of an encoded image.
 *
 * patches: (h, w, D) as the server sent them; unit: the same, each patch of length 1; attention: (M, h, w) logits or null;
 * heads: (M, D) of length 1, pooled with softmax(attention); pooled: (M, D) of length 1, pooled with the raw logits, which the
 * published cleaning compares with words; maps: (M, h, w) softmax(attention).
 */
export function readFeatures(buffer) {
  const { tensors, metadata } = readSafetensors(buffer);
  const [h, w, dim] = tensors.patches.shape;
  const [low, high] = metadata.threshold_range ? pair(metadata.threshold_range) : [0, 1];
  const features = {
    h,
    w,
    dim,
    patches: tensors.patches.data,
    unit: normaliseRows(tensors.patches.data, dim),
    attention: tensors.attention?.data ?? null,
    headCount: tensors.attention?.shape[0] ?? 0,
    heads: tensors.heads?.data ?? null,
    pooled: null,
    maps: null,
    imageSize: pair(metadata.image_size),
    seenSize: pair(metadata.seen_size),
    variant: metadata.variant ?? "",
    method: metadata.method ?? "",
    whole: true,
    patchSize: Number(metadata.patch_size),
    threshold: metadata.threshold ? Number(metadata.threshold) : null,
    thresholdRange: [low, high],
    space: metadata.space ?? "",
    model: metadata.model ?? "",
  };
  if (features.attention) addHeads(features);
  return features;
}

/** In place of features for an image that is too elongated to be seen as a whole: the server labels it in windows. */
export function noFeatures({ width, height }, model) {
  const { dim, variant, threshold, threshold_range: thresholdRange, patch_size: patchSize } = model;
  const empty = new Float32Array(dim);
  return {
    h: 1,
    w: 1,
    dim,
    patches: empty,
    unit: empty,
    attention: null,
    headCount: 0,
    heads: null,
    pooled: null,
    maps: null,
    imageSize: [height, width],
    seenSize: [height, width],
    variant,
    method: model.method,
    whole: false,
    patchSize,
    threshold,
    thresholdRange,
    space: model.space,
    model: model.name,
  };
}

function addHeads(features) {
  const { h, w, dim, patches, attention, headCount } = features;
  const count = h * w;
  const maps = new Float32Array(headCount * count);
  const pooled = new Float32Array(headCount * dim);
  for (let m = 0; m < headCount; m++) {
    const logits = attention.subarray(m * count, (m + 1) * count);
    softmaxInto(maps.subarray(m * count, (m + 1) * count), logits);
    const weights = features.variant === "paper" ? maps.subarray(m * count, (m + 1) * count) : logits;
    const row = new Float64Array(dim);
    for (let p = 0; p < count; p++) {
      const weight = weights[p];
      for (let d = 0, at = p * dim; d < dim; d++) row[d] += weight * patches[at + d];
    }
    for (let d = 0; d < dim; d++) pooled[m * dim + d] = row[d] / count;
  }
  features.maps = maps;
  features.pooled = normaliseRows(pooled, dim);
}

/** Softmax of one row, written into ``target``. */
export function softmaxInto(target, values) {
  let top = -Infinity;
  let total = 0;
  for (const value of values) top = Math.max(top, value);
  for (let i = 0; i < values.length; i++) total += target[i] = Math.exp(values[i] - top);
  for (let i = 0; i < values.length; i++) target[i] /= total;
}

/** Rows of ``dim`` values scaled to length 1; norms are floored at 1e-6, as on the server. */
export function normaliseRows(values, dim) {
  const out = new Float32Array(values.length);
  for (let start = 0; start < values.length; start += dim) {
    let sum = 0;
    for (let d = 0; d < dim; d++) sum += values[start + d] ** 2;
    const scale = 1 / Math.max(Math.sqrt(sum), 1e-6);
    for (let d = 0; d < dim; d++) out[start + d] = values[start + d] * scale;
  }
  return out;
}
