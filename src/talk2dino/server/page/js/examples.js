// Words by example: the same rule as words/examples.py on the server.

import { normaliseRows } from "./features.js";

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
  return Array.from({ length: count }, (_, i) => Math.max(0, Math.min(stop, (i + 1) * part) - Math.max(start, i * part)) / part);
}

/** Indices of the patches that stand for a region: those at least half inside, else those most inside. */
export function patchesOf(features, region) {
  const [height, width] = features.imageSize;
  const [x0, y0, x1, y1] = boxOf(region);
  const down = overlaps(y0, y1, height, features.h);
  const across = overlaps(x0, x1, width, features.w);
  const enough = Math.min(INSIDE, Math.max(...down) * Math.max(...across) * 0.999);
  const found = [];
  for (let row = 0; row < features.h; row++) {
    for (let column = 0; column < features.w; column++) if (down[row] * across[column] >= enough) found.push(row * features.w + column);
  }
  return found;
}

/** Mean of the L2-normalised patches of a region, normalised. */
export function exampleVector(features, region) {
  const { unit, dim } = features;
  const sum = new Float32Array(dim);
  for (const p of patchesOf(features, region)) for (let d = 0; d < dim; d++) sum[d] += unit[p * dim + d];
  return normaliseRows(sum, dim);
}

/** Mean of vectors of length 1, normalised. */
export function meanVector(vectors) {
  const sum = new Float32Array(vectors[0].length);
  for (const vector of vectors) for (let d = 0; d < sum.length; d++) sum[d] += vector[d];
  return normaliseRows(sum, sum.length);
}

/** The vector of a word: of its text, of its examples, or their average where it has both. */
export function wordVector(word) {
  const parts = [];
  if (word.typed) {
    if (!word.text) return null;
    parts.push(word.text);
  }
  if (word.examples.length) parts.push(meanVector(word.examples.map((one) => one.vector)));
  return parts.length === 1 ? parts[0] : meanVector(parts);
}
