// WebGL2 programs. Labels are found in steps, patch grid (gridCells in scores.js) -> size that the model sees -> image,
// because most pixels need no arithmetic: the shares of a bilinear mix are positive and add up to one, so a class that is ahead of all others
// and above its threshold at all four neighbours is ahead at the pixel too. Where the neighbours disagree, the scores of all
// classes are mixed exactly as torch does. stages/kernels/labels.py uses the same argument on a CPU.

export const CORNERS = `#version 300 es
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }`;

const PICK = `#version 300 es
precision highp float; precision highp int; precision highp sampler2DArray; precision highp usampler2D;
uniform sampler2DArray scores;   // (w, h, layers): four classes per texel
uniform sampler2D floors;        // (layers, 1): thresholds
uniform int layers;
uniform ivec2 stride;            // output pixel -> pixel of the level, for images larger than the label texture
uniform ivec2 size;
const uint UNDECIDED = 65535u;
const uint NEAR_EDGE = 32768u;   // marks pixels of the image at which another label may be next to them
out uvec4 label;
vec4 at(int layer);

// 0: no class above its threshold; n + 1: class n; UNDECIDED: the best class is below its threshold, another is above its own.
uint winner(bool decide) {
  float best = -3.0e38, ahead = -3.0e38;
  uint won = 0u, first = 0u;
  for (int layer = 0; layer < layers; layer++) {
    vec4 value = at(layer), lowest = texelFetch(floors, ivec2(layer, 0), 0);
    for (int lane = 0; lane < 4; lane++) {
      uint name = uint(4 * layer + lane) + 1u;
      if (value[lane] > ahead) { ahead = value[lane]; first = name; }
      if (value[lane] > lowest[lane] && value[lane] > best) { best = value[lane]; won = name; }
    }
  }
  return decide || won == 0u || won == first ? won : UNDECIDED;
}
`;

const TAPS = `
vec3 tap(sampler2D table, int index) { return texelFetch(table, ivec2(index & 2047, index >> 11), 0).xyz; }
vec4 grid(int layer, vec3 row, vec3 column) {
  vec4 a = texelFetch(scores, ivec3(int(column.x), int(row.x), layer), 0);
  vec4 b = texelFetch(scores, ivec3(int(column.y), int(row.x), layer), 0);
  vec4 c = texelFetch(scores, ivec3(int(column.x), int(row.y), layer), 0);
  vec4 d = texelFetch(scores, ivec3(int(column.y), int(row.y), layer), 0);
  return mix(mix(a, c, row.z), mix(b, d, row.z), column.z);
}
// The cell of the lower level in which a pixel lies; the table of taps says the same, but costs a fetch.
ivec2 cellOf(ivec2 place, vec2 scale, float offset, usampler2D cells) {
  return clamp(ivec2((vec2(place) + offset) * scale - offset), ivec2(0), textureSize(cells, 0) - 1);
}
`;

/** For each cell between four neighbours: their label if they agree, else UNDECIDED. */
export const CELLS = `#version 300 es
precision highp float; precision highp int; precision highp usampler2D;
uniform usampler2D lower;
const uint UNDECIDED = 65535u;
out uvec4 label;
void main() {
  ivec2 place = ivec2(gl_FragCoord.xy), next = min(place + 1, textureSize(lower, 0) - 1);
  uint a = texelFetch(lower, place, 0).r, b = texelFetch(lower, ivec2(next.x, place.y), 0).r;
  uint c = texelFetch(lower, ivec2(place.x, next.y), 0).r, d = texelFetch(lower, next, 0).r;
  label = uvec4(a == b && b == c && c == d ? a : UNDECIDED, 0u, 0u, 0u);
}`;

/** Labels at the size that the model sees. Loops that run once or never are left early where plain branches are not. */
export const SEEN_LABELS = `${PICK}
uniform usampler2D cells;
uniform sampler2D seenRows, seenColumns;
uniform vec2 scale;
vec3 row, column;
${TAPS}
vec4 at(int layer) { return grid(layer, row, column); }
void main() {
  ivec2 place = ivec2(gl_FragCoord.xy);
  uint name = texelFetch(cells, cellOf(place, scale, 0.0, cells), 0).r;
  for (int once = name == UNDECIDED ? 0 : 1; once < 1; once++) {
    row = tap(seenRows, place.y);
    column = tap(seenColumns, place.x);
    name = winner(false);
  }
  label = uvec4(name, 0u, 0u, 0u);
}`;

/** Labels at the image's size, or of every few pixels of it; negative words become 0. */
export const IMAGE_LABELS = `${PICK}
uniform usampler2D cells;
uniform sampler2D seenRows, seenColumns, rows, columns;
uniform vec2 scale;
uniform uint positive;
vec3 row, column, top, bottom, left, right;
${TAPS}
vec4 at(int layer) {
  vec4 a = grid(layer, top, left), b = grid(layer, top, right), c = grid(layer, bottom, left), d = grid(layer, bottom, right);
  return mix(mix(a, b, column.z), mix(c, d, column.z), row.z);
}
void main() {
  ivec2 place = min(ivec2(gl_FragCoord.xy) * stride + stride / 2, size - 1);
  uint name = texelFetch(cells, cellOf(place, scale, 0.5, cells), 0).r;
  uint mark = name == UNDECIDED ? NEAR_EDGE : 0u;
  for (int once = name == UNDECIDED ? 0 : 1; once < 1; once++) {
    row = tap(rows, place.y);
    column = tap(columns, place.x);
    top = tap(seenRows, int(row.x));
    bottom = tap(seenRows, int(row.y));
    left = tap(seenColumns, int(column.x));
    right = tap(seenColumns, int(column.y));
    name = winner(true);
  }
  label = uvec4((name > positive ? 0u : name) | mark, 0u, 0u, 0u);
}`;

const SCREEN = `#version 300 es
precision highp float; precision highp int; precision highp usampler2D;
uniform sampler2D image;
uniform vec2 canvas;
out vec4 colour;
vec2 place() { return vec2(gl_FragCoord.x, canvas.y - gl_FragCoord.y) / canvas; }
`;

/** The image alone. */
export const SHOW_IMAGE = `${SCREEN}
void main() { colour = vec4(texture(image, place()).rgb, 1.0); }`;

const classes = (compared) => `${SCREEN}
uniform sampler2D palette, otherPalette;
uniform usampler2D labels, otherLabels;
uniform float opacity, wipe;     // wipe: share of the width that shows the first result
uniform int focus;               // label to emphasise, -1 for none
uint nameAt(bool other, vec2 at) {
  ${compared ? `if (other) return texelFetch(otherLabels, clamp(ivec2(at * vec2(textureSize(otherLabels, 0))), ivec2(0), textureSize(otherLabels, 0) - 1), 0).r;` : ""}
  return texelFetch(labels, clamp(ivec2(at * vec2(textureSize(labels, 0))), ivec2(0), textureSize(labels, 0) - 1), 0).r;
}
vec4 paintOf(bool other, uint name) {
  ${compared ? "if (other) return texelFetch(otherPalette, ivec2(int(name), 0), 0);" : ""}
  return texelFetch(palette, ivec2(int(name), 0), 0);
}
void main() {
  vec2 here = place(), step = 1.0 / canvas;
  bool other = ${compared ? "here.x >= wipe" : "false"};
  uint marked = nameAt(other, here), name = marked & 32767u;
  vec4 paint = paintOf(other, name);
  float weight = opacity * (name == 0u ? 0.8 * paint.a : paint.a);
  if (focus >= 0) weight = int(name) == focus ? max(weight, 0.75) : 0.25 * weight;
  vec3 mixed = mix(texture(image, here).rgb, paint.rgb, weight);
  bool edge = false;
  for (int once = marked == name ? 1 : 0; once < 1; once++) {
    uint right = nameAt(other, here + vec2(step.x, 0.0)), below = nameAt(other, here + vec2(0.0, step.y));
    edge = (right & 32767u) != name || (below & 32767u) != name;
  }
  colour = vec4(edge && opacity > 0.0 ? mix(mixed, vec3(1.0), 0.7) : mixed, 1.0);
}`;

/** Classes over the image. */
export const SHOW_CLASSES = classes(false);

/** Two results beside each other. */
export const SHOW_BOTH = classes(true);

/** A heat map over the grey image. */
export const SHOW_HEAT = `${SCREEN}
uniform sampler2D heat;
uniform vec2 heatRange;
float heatAt(vec2 where) {
  ivec2 size = textureSize(heat, 0);
  vec2 at = clamp(where * vec2(size) - 0.5, vec2(0.0), vec2(size - 1));
  ivec2 low = ivec2(at), high = min(low + 1, size - 1);
  vec2 share = at - vec2(low);
  float a = texelFetch(heat, low, 0).r, b = texelFetch(heat, ivec2(high.x, low.y), 0).r;
  float c = texelFetch(heat, ivec2(low.x, high.y), 0).r, d = texelFetch(heat, high, 0).r;
  return mix(mix(a, b, share.x), mix(c, d, share.x), share.y);
}
vec3 warm(float t) {  // dark violet, magenta, orange, pale yellow: lightness rises all the way
  vec3 a = vec3(0.06, 0.03, 0.16), b = vec3(0.48, 0.11, 0.43), c = vec3(0.93, 0.41, 0.15), d = vec3(0.99, 0.99, 0.75);
  return t < 0.33 ? mix(a, b, t / 0.33) : t < 0.66 ? mix(b, c, (t - 0.33) / 0.33) : mix(c, d, (t - 0.66) / 0.34);
}
void main() {
  vec2 here = place();
  float t = clamp((heatAt(here) - heatRange.x) / max(heatRange.y - heatRange.x, 1e-9), 0.0, 1.0);
  float grey = dot(texture(image, here).rgb, vec3(0.3, 0.59, 0.11));
  colour = vec4(mix(vec3(grey), warm(t), 0.35 + 0.5 * t), 1.0);
}`;
