// Colours of words: the service's, unless another word on the page already has one that looks the same.

// The first colours of io/palette.py, distinct for normal, deuteranopic and protanopic eyes.
export const DISTINCT = [
  [0, 114, 178],
  [230, 159, 0],
  [0, 158, 115],
  [213, 94, 0],
  [86, 180, 233],
  [204, 121, 167],
  [240, 228, 66],
  [0, 0, 255],
  [0, 240, 180],
  [150, 105, 255],
  [150, 60, 120],
  [135, 75, 0],
  [240, 195, 255],
  [90, 45, 195],
  [150, 195, 120],
  [225, 30, 210],
  [255, 45, 105],
  [195, 45, 75],
  [255, 120, 210],
  [165, 255, 150],
];
const TOO_CLOSE = 0.12; // distance in OKLab, the smallest over the kinds of eyes

// Simulated dichromacy, severity 1 (Machado, Oliveira and Fernandes 2009), on linear RGB.
const EYES = [
  [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ],
  [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ],
  [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
];

const linear = (value) => (value <= 10.31475 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4);
const times = (matrix, [x, y, z]) => matrix.map((row) => row[0] * x + row[1] * y + row[2] * z);

function oklab(rgb) {
  const [l, m, s] = times(
    [
      [0.4122214708, 0.5363325363, 0.0514459929],
      [0.2119034982, 0.6806995451, 0.1073969566],
      [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    rgb,
  ).map((value) => Math.cbrt(Math.max(0, value)));
  return times(
    [
      [0.2104542553, 0.793617785, -0.0040720468],
      [1.9779984951, -2.428592205, 0.4505937099],
      [0.0259040371, 0.7827717662, -0.808675766],
    ],
    [l, m, s],
  );
}

const seen = new Map(); // colour -> how each kind of eyes sees it

function views(colour) {
  const key = colour.join();
  if (!seen.has(key))
    seen.set(
      key,
      EYES.map((eye) => oklab(times(eye, colour.map(linear)))),
    );
  return seen.get(key);
}

/** How different two colours look to the eyes that tell them apart least. */
export function difference(one, other) {
  const [a, b] = [views(one), views(other)];
  return Math.min(...a.map((lab, eye) => Math.hypot(lab[0] - b[eye][0], lab[1] - b[eye][1], lab[2] - b[eye][2])));
}

/** Further colours, for lists of more words than there are distinct ones: all combinations of a few shares of red, green, blue. */
const FURTHER = [0, 75, 140, 200, 250]
  .flatMap((r) => [0, 75, 140, 200, 250].flatMap((g) => [0, 75, 140, 200, 250].map((b) => [r, g, b])))
  .filter((colour) => Math.max(...colour) - Math.min(...colour) > 60);

/** ``wanted`` if no colour in use looks like it, else a distinct colour that is free, else the one that differs most. */
export function freeColour(wanted, used) {
  const distance = (colour) => Math.min(Infinity, ...used.map((other) => difference(colour, other)));
  if (distance(wanted) >= TOO_CLOSE) return wanted;
  const good = DISTINCT.find((colour) => distance(colour) >= TOO_CLOSE);
  if (good) return good;
  const candidates = [wanted, ...DISTINCT, ...FURTHER].map((colour) => [distance(colour), colour]);
  return candidates.reduce((best, next) => (next[0] > best[0] ? next : best))[1];
}

export const toHex = (colour) => `#${colour.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
export const fromHex = (text) => [1, 3, 5].map((at) => Number.parseInt(text.slice(at, at + 2), 16));
