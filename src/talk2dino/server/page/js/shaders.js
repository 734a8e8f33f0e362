// WebGL2 programs. Labels are found in three steps, patch grid -> size that the model sees -> image, because most pixels
// need no arithmetic: the shares of a bilinear mix are positive and add up to one, so a class that is ahead of all others
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
vec3 tap(sampler2D table, int index) { return texelFetch(table, ivec2(index, 0), 0).xyz; }
uint agreed(usampler2D labels, vec3 row, vec3 column) {
  uint a = texelFetch(labels, ivec2(int(column.x), int(row.x)), 0).r;
  if (a == UNDECIDED) return a;
  if (column.z > 0.0 && texelFetch(labels, ivec2(int(column.y), int(row.x)), 0).r != a) return UNDECIDED;
  if (row.z > 0.0) {
    if (texelFetch(labels, ivec2(int(column.x), int(row.y)), 0).r != a) return UNDECIDED;
    if (column.z > 0.0 && texelFetch(labels, ivec2(int(column.y), int(row.y)), 0).r != a) return UNDECIDED;
  }
  return a;
}
vec4 grid(int layer, vec3 row, vec3 column) {
  vec4 a = texelFetch(scores, ivec3(int(column.x), int(row.x), layer), 0);
  vec4 b = texelFetch(scores, ivec3(int(column.y), int(row.x), layer), 0);
  vec4 c = texelFetch(scores, ivec3(int(column.x), int(row.y), layer), 0);
  vec4 d = texelFetch(scores, ivec3(int(column.y), int(row.y), layer), 0);
  return mix(mix(a, c, row.z), mix(b, d, row.z), column.z);
}
`;

/** Labels of the patches. */
export const GRID_LABELS = `${PICK}
vec4 at(int layer) { return texelFetch(scores, ivec3(ivec2(gl_FragCoord.xy), layer), 0); }
void main() { label = uvec4(winner(false), 0u, 0u, 0u); }`;

/** Labels at the size that the model sees. */
export const SEEN_LABELS = `${PICK}
uniform usampler2D lower;
uniform sampler2D seenRows, seenColumns;
vec3 row, column;
${TAPS}
vec4 at(int layer) { return grid(layer, row, column); }
void main() {
  ivec2 place = ivec2(gl_FragCoord.xy);
  row = tap(seenRows, place.y);
  column = tap(seenColumns, place.x);
  uint name = agreed(lower, row, column);
  label = uvec4(name == UNDECIDED ? winner(false) : name, 0u, 0u, 0u);
}`;

/** Labels at the image's size, or of every few pixels of it; negative words become 0. */
export const IMAGE_LABELS = `${PICK}
uniform usampler2D lower;
uniform sampler2D seenRows, seenColumns, rows, columns;
uniform uint positive;
vec3 row, column, top, bottom, left, right;
${TAPS}
vec4 at(int layer) {
  vec4 a = grid(layer, top, left), b = column.z > 0.0 ? grid(layer, top, right) : a;
  if (row.z == 0.0) return mix(a, b, column.z);
  vec4 c = grid(layer, bottom, left), d = column.z > 0.0 ? grid(layer, bottom, right) : c;
  return mix(mix(a, c, row.z), mix(b, d, row.z), column.z);
}
void main() {
  ivec2 place = min(ivec2(gl_FragCoord.xy) * stride + stride / 2, size - 1);
  row = tap(rows, place.y);
  column = tap(columns, place.x);
  uint name = agreed(lower, row, column);
  if (name == UNDECIDED) {
    top = tap(seenRows, int(row.x));
    bottom = tap(seenRows, int(row.y));
    left = tap(seenColumns, int(column.x));
    right = tap(seenColumns, int(column.y));
    name = winner(true);
  }
  label = uvec4(name > positive ? 0u : name, 0u, 0u, 0u);
}`;

/** What the person sees: the image, classes or a heat map over it, two results beside each other. */
export const COMPOSE = `#version 300 es
precision highp float; precision highp int; precision highp usampler2D;
uniform sampler2D image, palette, otherPalette, heat;
uniform usampler2D labels, otherLabels;
uniform vec2 canvas;
uniform ivec2 labelSize, otherSize, heatSize;
uniform float opacity, wipe;     // wipe: share of the width that shows the first result; 2 for no second one
uniform int focus, view;         // focus: label to emphasise, -1 for none; view: 0 image, 1 classes, 2 heat map
uniform vec2 heatRange;
out vec4 colour;

uint nameAt(bool other, vec2 place) {
  ivec2 size = other ? otherSize : labelSize;
  ivec2 texel = clamp(ivec2(place * vec2(size)), ivec2(0), size - 1);
  return other ? texelFetch(otherLabels, texel, 0).r : texelFetch(labels, texel, 0).r;
}
float heatAt(vec2 place) {
  vec2 at = clamp(place * vec2(heatSize) - 0.5, vec2(0.0), vec2(heatSize - 1));
  ivec2 low = ivec2(at), high = min(low + 1, heatSize - 1);
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
  vec2 place = vec2(gl_FragCoord.x, canvas.y - gl_FragCoord.y) / canvas;
  vec3 base = texture(image, place).rgb;
  if (view == 0) { colour = vec4(base, 1.0); return; }
  if (view == 2) {
    float t = clamp((heatAt(place) - heatRange.x) / max(heatRange.y - heatRange.x, 1e-9), 0.0, 1.0);
    float grey = dot(base, vec3(0.3, 0.59, 0.11));
    colour = vec4(mix(vec3(grey), warm(t), 0.35 + 0.5 * t), 1.0);
    return;
  }
  bool other = place.x >= wipe;
  uint name = nameAt(other, place);
  vec4 paint = other ? texelFetch(otherPalette, ivec2(int(name), 0), 0) : texelFetch(palette, ivec2(int(name), 0), 0);
  float weight = opacity * (name == 0u ? 0.8 * paint.a : paint.a);
  if (focus >= 0) weight = int(name) == focus ? max(weight, 0.75) : 0.25 * weight;
  vec3 mixed = mix(base, paint.rgb, weight);
  vec2 step = 1.0 / canvas;
  bool edge = nameAt(other, place + vec2(step.x, 0.0)) != name || nameAt(other, place + vec2(0.0, step.y)) != name;
  if (edge && opacity > 0.0) mixed = mix(mixed, vec3(1.0), 0.7);
  colour = vec4(mixed, 1.0);
}`;
