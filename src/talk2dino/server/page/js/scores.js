// Scores of words on the patch grid, as methods/talk2dino.py and stages/ compute them on the server.

import { softmaxInto } from "./features.js";

const LAMBDA = 5 / 6; // weight of the similarity in the cleaned map

/** slope cos(v[p], t) + offset for every patch: (h * w) values. ``vector`` has length 1. */
export function cosines(features, vector, [slope, offset] = [1, 0]) {
  const { unit, dim, h, w } = features;
  const out = new Float32Array(h * w);
  for (let p = 0, at = 0; p < out.length; p++) {
    let sum = 0;
    for (let d = 0; d < dim; d++, at++) sum += unit[at] * vector[d];
    out[p] = slope * sum + offset;
  }
  return out;
}

/** Cosines of all patches with patch ``index``: what DINO finds similar to it. */
export function similarPatches(features, index) {
  const { unit, dim } = features;
  return cosines(features, unit.subarray(index * dim, (index + 1) * dim));
}

/**
 * Score maps of N words.
 *
 * similarity: N arrays of (h * w) cosines; vectors: N arrays of length D; clean: whether to mix with the attention.
 * Returns N arrays on the scale of the thresholds: after the sigmoid for published models, cosines otherwise.
 */
export function scoreMaps(features, similarity, vectors, clean) {
  const published = features.variant === "published";
  const maps = similarity.map((map) => (published ? map.map((value) => 1 / (1 + Math.exp(-value))) : map.slice()));
  if (!clean || !features.attention || !maps.length) return maps;
  const focus = vectors.map((vector) => focusMap(features, vector));
  if (published) scaleFocus(focus, maps);
  return maps.map((map, n) => map.map((value, p) => LAMBDA * value + (1 - LAMBDA) * focus[n][p]));
}

/** F_j = sum_i R_ij A_i, R_ij = softmax_i cos(v^{A_i}, t_j). */
function focusMap(features, vector) {
  const { headCount, attention, h, w } = features;
  const weights = new Float32Array(headCount);
  softmaxInto(weights, headCosines(features.pooled, features, vector));
  const out = new Float32Array(h * w);
  for (let p = 0; p < out.length; p++) {
    let sum = 0;
    for (let m = 0; m < headCount; m++) sum += weights[m] * attention[m * out.length + p];
    out[p] = sum;
  }
  return out;
}

/** The published scaling: softmax over patches, then min-max to the range of the scores of all classes of the image. */
function scaleFocus(focus, maps) {
  for (const map of focus) softmaxInto(map, map.slice());
  const [low, high] = range(focus);
  const [bottom, top] = range(maps);
  const scale = (top - bottom) / Math.max(high, high - low); // the maximum before the shift, as published
  for (const map of focus) for (let p = 0; p < map.length; p++) map[p] = (map[p] - low) * scale + bottom;
}

function range(maps) {
  let low = Infinity;
  let high = -Infinity;
  for (const map of maps) {
    for (const value of map) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return [low, high];
}

/** Cosine of a word with each row of (M, D) vectors of length 1. */
export function headCosines(rows, features, vector) {
  const { dim, headCount } = features;
  const out = new Float32Array(headCount);
  for (let m = 0; m < headCount; m++) {
    let sum = 0;
    for (let d = 0; d < dim; d++) sum += rows[m * dim + d] * vector[d];
    out[m] = sum;
  }
  return out;
}

export const UNDECIDED = 0xffff;

/**
 * The label of every patch (0: none above its threshold, n + 1: class n), or UNDECIDED where the best class is below its
 * threshold and another is above its own; then, for each cell between four patches, their label if they agree.
 */
export function gridCells(maps, thresholds, { h, w }) {
  const labels = new Uint16Array(h * w);
  for (let p = 0; p < labels.length; p++) {
    let [best, ahead, won, first] = [-Infinity, -Infinity, 0, 0];
    for (let n = 0; n < maps.length; n++) {
      const value = maps[n][p];
      if (value > ahead) [ahead, first] = [value, n + 1];
      if (value > best && (!thresholds || value > thresholds[n])) [best, won] = [value, n + 1];
    }
    labels[p] = won === 0 || won === first ? won : UNDECIDED;
  }
  const cells = new Uint16Array(h * w);
  for (let y = 0; y < h; y++) {
    const below = y + 1 < h ? w : 0;
    for (let x = 0; x < w; x++) {
      const at = y * w + x;
      const right = x + 1 < w ? 1 : 0;
      const same =
        labels[at] === labels[at + right] &&
        labels[at] === labels[at + below] &&
        labels[at] === labels[at + below + right];
      cells[at] = same ? labels[at] : UNDECIDED;
    }
  }
  return cells;
}

/** Two numbers per output index of one linear resize: [lower index, upper index, share of the upper one]. */
export function linearTaps(source, target, alignCorners) {
  const taps = new Float32Array(4 * target);
  for (let i = 0; i < target; i++) {
    const position =
      source === target
        ? i
        : alignCorners
          ? target > 1
            ? (i * (source - 1)) / (target - 1)
            : 0
          : Math.max((i + 0.5) * (source / target) - 0.5, 0);
    const low = Math.min(Math.floor(position), source - 1);
    taps.set([low, Math.min(low + 1, source - 1), position - low, 0], 4 * i);
  }
  return taps;
}

/** Rows and columns of both resizes: patch grid -> seen size (corners aligned) -> image size. */
export function resizeTaps(features) {
  const {
    h,
    w,
    seenSize: [seenH, seenW],
    imageSize: [height, width],
  } = features;
  return {
    seenRows: linearTaps(h, seenH, true),
    seenColumns: linearTaps(w, seenW, true),
    rows: linearTaps(seenH, height, false),
    columns: linearTaps(seenW, width, false),
  };
}

/** The score of one map at pixel (x, y) of the image. */
export function scoreAt(map, features, taps, x, y) {
  const seen = (row, column) => {
    const [top, bottom, down] = taps.seenRows.subarray(4 * row, 4 * row + 3);
    const [left, right, across] = taps.seenColumns.subarray(4 * column, 4 * column + 3);
    const mix = (r) => map[r * features.w + left] * (1 - across) + map[r * features.w + right] * across;
    return mix(top) * (1 - down) + mix(bottom) * down;
  };
  const [top, bottom, down] = taps.rows.subarray(4 * y, 4 * y + 3);
  const [left, right, across] = taps.columns.subarray(4 * x, 4 * x + 3);
  const mix = (r) => seen(r, left) * (1 - across) + seen(r, right) * across;
  return mix(top) * (1 - down) + mix(bottom) * down;
}

/** The patch that holds pixel (x, y) of the image. */
export function patchAt(features, x, y) {
  const [height, width] = features.imageSize;
  const row = Math.min(features.h - 1, Math.floor((y / height) * features.h));
  const column = Math.min(features.w - 1, Math.floor((x / width) * features.w));
  return row * features.w + column;
}
