// Draws labels and results with WebGL2. Textures change only when their content does; a frame is a few draw calls.

import { gridCells, resizeTaps } from "./scores.js";
import {
  CELLS,
  CORNERS,
  IMAGE_LABELS,
  SEEN_LABELS,
  SHOW_BOTH,
  SHOW_CLASSES,
  SHOW_HEAT,
  SHOW_IMAGE,
} from "./shaders.js";

const NEAR_EDGE = 0x8000; // see shaders.js
const NEVER = 3e38; // a threshold that no score passes
const PROGRAMS = {
  cells: CELLS,
  seen: SEEN_LABELS,
  image: IMAGE_LABELS,
  showImage: SHOW_IMAGE,
  showClasses: SHOW_CLASSES,
  showBoth: SHOW_BOTH,
  showHeat: SHOW_HEAT,
};
const TABLE_WIDTH = 2048; // entries per row of a table; shaders.js knows it as well
const LARGEST_IMAGE = 4096; // side to which larger images are reduced for the screen
const LABEL_PIXELS = 2 ** 21; // larger images are labelled at every second, third ... pixel while they are shown
const COARSE_PIXELS = 2 ** 17; // the same while a slider is dragged and drawing is slow

export class Painter {
  constructor(canvas) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: false });
    if (!gl) throw new Error("WebGL2");
    if (!gl.getExtension("EXT_color_buffer_float")) gl.getExtension("EXT_color_buffer_half_float");
    this.gl = gl;
    this.canvas = canvas;
    this.programs = {};
    for (const [name, source] of Object.entries(PROGRAMS)) this.programs[name] = link(gl, source);
    this.textures = {};
    this.frame = gl.createFramebuffer();
    this.largest = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    this.mostClasses = Math.min(NEAR_EDGE - 2, 4 * gl.getParameter(gl.MAX_ARRAY_TEXTURE_LAYERS), 4 * this.largest);
    gl.bindVertexArray(gl.createVertexArray());
    for (const name of ["palette", "otherPalette"]) this.setPalette([[0, 0, 0, 0]], name);
    for (const name of ["labels", "otherLabels"]) this.#labelTexture(name, 1, 1, new Uint16Array(1));
    this.setHeat({ w: 1, h: 1, values: new Float32Array(1) });
    this.setImage(new ImageData(1, 1));
  }

  setImage(source) {
    const { gl } = this;
    this.#bind("image", gl.TEXTURE_2D);
    const shown = reduced(source, Math.min(LARGEST_IMAGE, this.largest));
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, shown);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
    clamp(gl, gl.TEXTURE_2D);
    this.textures.image.size = [shown.width, shown.height];
  }

  /** Sizes of a newly encoded image. */
  setFeatures(features) {
    this.features = features;
    const taps = resizeTaps(features);
    for (const name of ["seenRows", "seenColumns", "rows", "columns"]) this.#table(name, taps[name]);
    const [seenH, seenW] = features.seenSize;
    for (const name of ["seenLabels", "seenCells"]) this.#labelTexture(name, seenW, seenH);
    return taps;
  }

  /** N score maps of (h * w) values, positives first. */
  setScores(maps) {
    const { gl } = this;
    const { h, w } = this.features;
    const layers = Math.max(1, Math.ceil(maps.length / 4));
    const packed = new Float32Array(layers * h * w * 4).fill(-NEVER);
    maps.forEach((map, n) => {
      const start = (n >> 2) * h * w * 4 + (n & 3);
      for (let p = 0; p < map.length; p++) packed[start + 4 * p] = map[p];
    });
    this.#bind("scores", gl.TEXTURE_2D_ARRAY);
    gl.texImage3D(gl.TEXTURE_2D_ARRAY, 0, gl.RGBA32F, w, h, layers, 0, gl.RGBA, gl.FLOAT, packed);
    nearest(gl, gl.TEXTURE_2D_ARRAY);
    this.layers = layers;
    this.maps = maps;
  }

  /** Thresholds of the N classes, or null for no background; the last ``negative`` classes become background. */
  setThresholds(thresholds, negative) {
    const floors = new Float32Array(4 * this.layers).fill(NEVER);
    // As float32, which the scores are and the server compares with.
    this.thresholds = thresholds && Float32Array.from(thresholds);
    for (let n = 0; n < this.maps.length; n++) floors[n] = thresholds ? thresholds[n] : -NEVER;
    this.#table("floors", floors);
    this.positive = this.maps.length - negative;
  }

  /** RGBA rows, 0..255; row 0 is the background. */
  setPalette(colours, name = "palette") {
    const { gl } = this;
    this.#bind(name, gl.TEXTURE_2D);
    gl.texImage2D(
      gl.TEXTURE_2D,
      0,
      gl.RGBA8,
      colours.length,
      1,
      0,
      gl.RGBA,
      gl.UNSIGNED_BYTE,
      new Uint8Array(colours.flat()),
    );
    nearest(gl, gl.TEXTURE_2D);
  }

  /** Labels that the server computed: 0 is the background. */
  setLabels(labels, width, height, name = "labels") {
    this.#labelTexture(
      name,
      width,
      height,
      labels.map((label) => label | NEAR_EDGE),
    );
  }

  setHeat({ w, h, values }) {
    const { gl } = this;
    this.#bind("heat", gl.TEXTURE_2D);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, w, h, 0, gl.RED, gl.FLOAT, values);
    nearest(gl, gl.TEXTURE_2D);
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    this.heatRange = [low, high];
  }

  /** Find the labels: of every pixel of the image if ``exact``, of every few pixels if ``coarse`` or the image is large. */
  label({ exact = false, coarse = false } = {}) {
    const [height, width] = this.features.imageSize;
    const pixels = exact ? Infinity : coarse ? COARSE_PIXELS : LABEL_PIXELS;
    const most = Math.max(Math.sqrt((width * height) / pixels), Math.max(width, height) / this.largest);
    const stride = Math.max(1, Math.ceil(most));
    const size = [Math.ceil(width / stride), Math.ceil(height / stride)];
    const [seenH, seenW] = this.features.seenSize;
    const current = this.textures.labels.size;
    if (current[0] !== size[0] || current[1] !== size[1]) this.#labelTexture("labels", ...size);
    const shared = { scores: "scores", floors: "floors" };
    const seen = { ...shared, seenRows: "seenRows", seenColumns: "seenColumns" };
    this.#labelTexture(
      "gridCells",
      this.features.w,
      this.features.h,
      gridCells(this.maps, this.thresholds, this.features),
    );
    this.#run("seen", "seenLabels", { ...seen, cells: "gridCells" }, (gl, at) => {
      const scale = (source, target) => (target > 1 ? (source - 1) / (target - 1) : 0);
      gl.uniform2f(at("scale"), scale(this.features.w, seenW), scale(this.features.h, seenH));
    });
    this.#run("cells", "seenCells", { lower: "seenLabels" });
    this.#run("image", "labels", { ...seen, rows: "rows", columns: "columns", cells: "seenCells" }, (gl, at) => {
      gl.uniform2f(at("scale"), seenW / width, seenH / height);
      gl.uniform2i(at("stride"), stride, stride);
      gl.uniform2i(at("size"), width, height);
      gl.uniform1ui(at("positive"), this.positive);
    });
  }

  /** The labels last found, as Uint16Array with width and height; 0 is the background. */
  read(name = "labels") {
    const { gl } = this;
    const [width, height] = this.textures[name].size;
    const pixels = new Uint32Array(4 * width * height);
    this.#target(name);
    gl.readPixels(0, 0, width, height, gl.RGBA_INTEGER, gl.UNSIGNED_INT, pixels);
    const labels = new Uint16Array(width * height);
    for (let i = 0; i < labels.length; i++) labels[i] = pixels[4 * i] & ~NEAR_EDGE;
    return { labels, width, height };
  }

  /** Draw what the person sees; view: "image", "classes" or "heat". */
  draw({ view, opacity = 0, wipe = null, focus = -1 }) {
    const { gl, canvas } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    this.#filterImage();
    const [program, samplers] = {
      image: ["showImage", {}],
      heat: ["showHeat", { heat: "heat" }],
      classes:
        wipe === null
          ? ["showClasses", { palette: "palette", labels: "labels" }]
          : [
              "showBoth",
              { palette: "palette", labels: "labels", otherPalette: "otherPalette", otherLabels: "otherLabels" },
            ],
    }[view];
    const at = this.#use(program, { image: "image", ...samplers });
    gl.uniform2f(at("canvas"), canvas.width, canvas.height);
    gl.uniform2f(at("heatRange"), ...this.heatRange);
    gl.uniform1f(at("opacity"), opacity);
    gl.uniform1f(at("wipe"), wipe ?? 2);
    gl.uniform1i(at("focus"), focus);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** Mipmaps are only needed where the image is shown smaller than it is. */
  #filterImage() {
    const { gl, canvas } = this;
    const smaller = canvas.width < this.textures.image.size[0];
    this.#bind("image", gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, smaller ? gl.LINEAR_MIPMAP_LINEAR : gl.LINEAR);
  }

  #run(program, target, samplers, set) {
    const { gl } = this;
    this.#target(target);
    gl.viewport(0, 0, ...this.textures[target].size);
    const at = this.#use(program, samplers);
    gl.uniform1i(at("layers"), this.layers);
    set?.(gl, at);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  #use(name, samplers) {
    const { gl } = this;
    const { program, places } = this.programs[name];
    const at = (uniform) => (places[uniform] ??= gl.getUniformLocation(program, uniform));
    gl.useProgram(program);
    Object.entries(samplers).forEach(([uniform, texture], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(this.textures[texture].kind, this.textures[texture].handle);
      gl.uniform1i(at(uniform), unit);
    });
    return at;
  }

  #target(name) {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.textures[name].handle, 0);
  }

  #bind(name, kind) {
    const { gl } = this;
    this.textures[name] ??= { handle: gl.createTexture(), kind, size: [1, 1] };
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(kind, this.textures[name].handle);
  }

  /** A list of four numbers each, in rows of a texture. */
  #table(name, values) {
    const { gl } = this;
    this.#bind(name, gl.TEXTURE_2D);
    const rows = Math.ceil(values.length / (4 * TABLE_WIDTH));
    const padded = new Float32Array(4 * TABLE_WIDTH * rows);
    padded.set(values);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, TABLE_WIDTH, rows, 0, gl.RGBA, gl.FLOAT, padded);
    nearest(gl, gl.TEXTURE_2D);
  }

  #labelTexture(name, width, height, values = null) {
    const { gl } = this;
    this.#bind(name, gl.TEXTURE_2D);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R16UI, width, height, 0, gl.RED_INTEGER, gl.UNSIGNED_SHORT, values);
    nearest(gl, gl.TEXTURE_2D);
    this.textures[name].size = [width, height];
  }
}

/** An image of at most ``largest`` pixels per side. */
function reduced(source, largest) {
  const scale = largest / Math.max(source.width, source.height);
  if (scale >= 1) return source;
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(source.width * scale));
  canvas.height = Math.max(1, Math.round(source.height * scale));
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function nearest(gl, kind) {
  gl.texParameteri(kind, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  gl.texParameteri(kind, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  clamp(gl, kind);
}

function clamp(gl, kind) {
  gl.texParameteri(kind, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(kind, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
}

function link(gl, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [
    [gl.VERTEX_SHADER, CORNERS],
    [gl.FRAGMENT_SHADER, fragment],
  ]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(`WebGL2: ${gl.getProgramInfoLog(program)}`);
  return { program, places: {} };
}
