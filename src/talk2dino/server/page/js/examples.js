// Words by example: the same rule as words/examples.py on the server.

import { normaliseRows } from "./features.js";

const UNTUNED = 0.25; // in place of the threshold of models without one
const INSIDE = 0.5; // share of a patch that must lie in the region

/** The box [x0, y0, x1, y1] in pixels of a region; a point is one pixel. */
export function boxOf(region) {
  if (region.box) return region.box;
  const [x, y] = region.point;
  return [x, y, x + 1, y + 1];
}

/** Overlap of [start, stop) with each of ``count`` equal parts of ``length``, as a share of the part. */
function overlaps(start, stop, length, count) {
  const part = length / count;
  return Array.from(
    { length: count },
    (_, i) => Math.max(0, Math.min(stop, (i + 1) * part) - Math.max(start, i * part)) / part,
  );
}

/** Share of each patch that lies in a region. */
function coverage(features, region) {
  const [height, width] = features.imageSize;
  const [x0, y0, x1, y1] = boxOf(region);
  const down = overlaps(y0, y1, height, features.h);
  const across = overlaps(x0, x1, width, features.w);
  return down.flatMap((row) => across.map((column) => row * column));
}

/** Patches that stand for a region: those at least half inside, else those most inside. */
const inside = (shares) => {
  const enough = Math.min(INSIDE, Math.max(...shares) * 0.999);
  return shares.flatMap((share, p) => (share >= enough ? [p] : []));
};

export const patchesOf = (features, region) => inside(coverage(features, region));

/** Mean of the L2-normalised patches with these indices. */
function meanPatch({ unit, dim }, indices) {
  const sum = new Float64Array(dim);
  for (const p of indices) for (let d = 0; d < dim; d++) sum[d] += unit[p * dim + d];
  return Float32Array.from(sum, (value) => value / indices.length);
}

function mean(vectors) {
  const sum = new Float64Array(vectors[0].length);
  for (const vector of vectors) for (let d = 0; d < sum.length; d++) sum[d] += vector[d];
  return Float32Array.from(sum, (value) => value / vectors.length);
}

const unitLength = (vector) => normaliseRows(vector, vector.length);
const dot = (a, b) => a.reduce((sum, value, d) => sum + value * b[d], 0);

/** The examples of one word: vector of length 1, and the mean patch inside and outside of the regions (or null). */
function lookAt(examples) {
  const found = [];
  for (const image of new Set(examples.map((one) => one.image))) {
    const shares = examples.filter((one) => one.image === image).map(({ region }) => coverage(image.features, region));
    const free = shares[0].flatMap((_, p) => (shares.every((one) => one[p] === 0) ? [p] : []));
    const outside = free.length ? meanPatch(image.features, free) : null;
    for (const one of shares) {
      const within = meanPatch(image.features, inside(one));
      found.push({ vector: unitLength(within), within, outside });
    }
  }
  const outside = found.flatMap((one) => (one.outside ? [one.outside] : []));
  return {
    vector: unitLength(mean(found.map((one) => one.vector))),
    within: mean(found.map((one) => one.within)),
    outside: outside.length ? mean(outside) : null,
  };
}

/** The cosine from which a patch belongs to a word. */
function cosineThreshold({ variant, threshold }) {
  if (threshold === null) return UNTUNED;
  return variant === "published" ? Math.log(threshold / (1 - threshold)) : threshold;
}

/** Slope and offset that let an example stand beside words; see calibration_of on the server. */
function calibrationOf(seen, threshold) {
  const p = dot(seen.vector, seen.within);
  const q = seen.outside ? dot(seen.vector, seen.outside) : p - threshold;
  const slope = Math.min(1, threshold / Math.max(p - q, 1e-6));
  return [slope, threshold - (slope * (p + q)) / 2];
}

/**
 * What patches are compared with for a word: its vector, and slope and offset of the cosines. A word with a text and with
 * examples is the average of both scores. Null while the text's vector is not there yet.
 */
export function wordVector(word) {
  if (word.typed && !word.text) return null;
  if (!word.examples.length) return { vector: word.text, calibration: [1, 0] };
  const seen = lookAt(word.examples);
  const [slope, offset] = calibrationOf(seen, cosineThreshold(word.examples[0].image.features));
  if (!word.typed) return { vector: seen.vector, calibration: [slope, offset] };
  const both = mean([word.text, seen.vector.map((value) => value * slope)]);
  const length = slope === 1 && offset === 0 ? 1 : Math.sqrt(dot(both, both));
  return { vector: unitLength(both), calibration: [length, offset / 2] };
}
