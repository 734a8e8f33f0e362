// From the store to the screen: decides what has to be computed again, and draws at most once per frame.

import * as api from "./api.js";
import { Painter } from "./painter.js";
import { readAnswer } from "./rle.js";
import { cosines, patchAt, scoreAt, scoreMaps, similarPatches } from "./scores.js";

const REFINE_AFTER = 350; // ms without a change until the server is asked
const SHARES_AFTER = 120;
const SLOW = 30; // ms between the redraws of a drag; more, and the preview gets coarser until the drag ends
const COARSE_CANVAS = 180_000; // pixels

export class Engine {
  constructor(store, canvas, report) {
    this.store = store;
    this.report = report; // called with (state, details): "preview", "refining", "refined", "local", "error"
    this.painter = new Painter(canvas);
    this.dirty = { scores: false, labels: false, draw: false };
    this.redraws = 0;
    this.version = 0; // of everything that decides the labels
    this.slots = { left: null, right: null }; // answers of the server that take the place of the labels computed here
    this.point = null; // {x, y} in pixels of the image
    this.head = null;
    store.on("image", () => this.#newImage());
    store.on("words", () => this.#touch("scores"));
    store.on("labels", () => this.#touch("labels"));
    store.on("look", () => this.#redraw());
    new ResizeObserver(() => this.#fit()).observe(canvas);
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.#restore(canvas));
  }

  // --- what changed ----------------------------------------------------------------------------------------------------

  #newImage() {
    const { image } = this.store;
    this.painter.setImage(image.bitmap);
    this.taps = this.painter.setFeatures(image.features);
    this.point = null;
    for (const word of this.store.words) word.similarity = null;
    this.#fit();
    this.#touch("scores");
  }

  /** The browser took the graphics context away and has given it back, empty. */
  #restore(canvas) {
    this.painter = new Painter(canvas);
    if (this.store.image) this.#newImage();
  }

  #touch(what) {
    this.version++;
    this.slots.left = null;
    this.slots.right = null;
    this.dirty.labels = true;
    if (what === "scores" || this.cleaned !== this.store.cleaning) this.dirty.scores = true;
    this.#redraw();
    this.#planRefinement();
  }

  #redraw() {
    this.dirty.draw = true;
    if (this.store.image && !this.waiting) this.waiting = requestAnimationFrame(() => this.#frame());
  }

  #frame() {
    this.waiting = 0;
    if (!this.store.image) return;
    this.#pace();
    if (this.dirty.scores) this.#score();
    if (this.dirty.labels) this.#label();
    if (this.dirty.draw) this.#draw();
    this.dirty = { scores: false, labels: false, draw: false };
    this.redraws++;
    this.store.dispatchEvent(new CustomEvent("drawn"));
  }

  /** Redraws that follow each other slowly are drawn with fewer pixels; when they stop, everything is drawn once more. */
  #pace() {
    const now = performance.now();
    const gap = now - (this.drawnAt ?? -Infinity);
    this.drawnAt = now;
    this.slow = gap < 400 ? 0.7 * (this.slow ?? 0) + 0.3 * gap : 0;
    clearTimeout(this.settling);
    if (!this.coarse && this.slow > SLOW && this.dirty.labels) this.#setCoarse(true);
    if (this.coarse)
      this.settling = setTimeout(() => {
        this.#setCoarse(false);
        this.drawnAt = -Infinity; // the last redraw belongs to no drag
        this.dirty.labels = true;
        this.#redraw();
      }, 160);
  }

  #setCoarse(coarse) {
    this.coarse = coarse;
    this.#fit();
  }

  // --- compute ---------------------------------------------------------------------------------------------------------

  #score() {
    const { store } = this;
    const words = store.active;
    for (const word of words) word.similarity ??= cosines(store.image.features, word.vector, word.calibration);
    this.cleaned = store.cleaning;
    this.maps = scoreMaps(
      store.image.features,
      words.map((word) => word.similarity),
      words.map((word) => word.vector),
      store.cleaning,
    );
    this.painter.setScores(this.maps);
  }

  #label() {
    const { store, painter } = this;
    painter.setThresholds(store.thresholds, store.negatives);
    if (!store.image.features.whole && !this.slots.left) painter.setLabels(new Uint16Array(1), 1, 1);
    else if (!this.slots.left) painter.label({ coarse: this.coarse });
    clearTimeout(this.counting);
    this.counting = setTimeout(() => this.count(), SHARES_AFTER);
  }

  /** Area share of every word, from the labels on the screen. */
  count() {
    if (this.slots.left?.foreign || this.slots.left?.plain || !this.store.image) return;
    const { labels } = this.painter.read();
    const words = this.store.active;
    const counts = new Float64Array(words.length + 1);
    for (const label of labels) counts[label]++;
    words.forEach((word, n) => {
      word.share = word.negative ? null : counts[n + 1] / labels.length;
    });
    this.store.dispatchEvent(new CustomEvent("shares"));
  }

  /** The label of every pixel of the image; 0 is the background or no class, n + 1 the n-th active word. */
  exactLabels() {
    if (this.dirty.scores) this.#score();
    if (this.slots.left) return this.painter.read();
    this.painter.setThresholds(this.store.thresholds, this.store.negatives);
    this.painter.label({ exact: true });
    const found = this.painter.read();
    this.dirty.labels = true; // large images go back to the labels of every few pixels
    this.#redraw();
    return found;
  }

  /** [{word, score}] of the active words at the point. */
  scoresAt({ x, y }) {
    const { features } = this.store.image;
    return this.store.active.map((word, n) => ({ word, score: scoreAt(this.maps[n], features, this.taps, x, y) }));
  }

  setPoint(point) {
    this.point = point;
    if (this.store.view === "similar") this.#redraw();
  }

  showHead(head) {
    this.head = head;
    this.#redraw();
  }

  // --- the server's results --------------------------------------------------------------------------------------------

  #planRefinement() {
    clearTimeout(this.planned);
    this.asking?.abort();
    const { image, active, refine } = this.store;
    if (!image || active.length === this.store.negatives) return this.report("local");
    if (!refine && image.features.whole) return this.report("local");
    this.report("preview");
    this.planned = setTimeout(() => this.#refine(), REFINE_AFTER);
  }

  async #refine() {
    if (this.holding) return; // the slider is still held; letting go plans again
    const started = performance.now();
    const { version } = this;
    this.asking = new AbortController();
    this.report("refining");
    try {
      const answer = await this.store.ask((id) => api.segment(id, this.store.request(), this.asking.signal));
      if (version !== this.version) return;
      this.show("left", readAnswer(answer));
      this.report("refined", { seconds: ((performance.now() - started) / 1000).toFixed(1) });
    } catch (error) {
      if (error.name !== "AbortError" && version === this.version) this.report("error", { message: error.message });
    }
  }

  /** A range input is held: the server is asked when it is let go. */
  hold(held) {
    this.holding = held;
    if (!held && !this.slots.left) this.#planRefinement();
  }

  /** Show an answer of the server on one side, or with null what this page computes. */
  show(side, answer) {
    this.slots[side] = answer;
    if (answer)
      this.painter.setLabels(answer.labels, answer.width, answer.height, side === "left" ? "labels" : "otherLabels");
    if (side === "left") this.dirty.labels = true;
    this.#redraw();
  }

  // --- draw ------------------------------------------------------------------------------------------------------------

  #fit() {
    const { canvas } = this.painter;
    const area = canvas.clientWidth * canvas.clientHeight;
    const scale = this.coarse ? Math.min(1, Math.sqrt(COARSE_CANVAS / area)) : Math.min(devicePixelRatio, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * scale));
    const height = Math.max(1, Math.round(canvas.clientHeight * scale));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      this.#redraw();
    }
  }

  #colours(answer) {
    const own = this.store.words;
    const named = (name, fallback) => own.find((word) => word.name === name && !word.negative)?.colour ?? fallback;
    const classes = answer
      ? answer.classes.map(({ name, colour }) => named(name, colour))
      : this.store.active.map((word) => word.colour);
    if (answer?.plain) return [[0, 0, 0, 0]];
    const nothing = this.store.background || this.store.negatives ? [0, 0, 0, 140] : [0, 0, 0, 0];
    return [nothing, ...classes.map((colour) => [...colour, 255])];
  }

  #draw() {
    const { store, painter } = this;
    painter.setPalette(this.#colours(this.slots.left));
    const comparing = store.view === "compare" && this.slots.right;
    if (comparing) painter.setPalette(this.#colours(this.slots.right), "otherPalette");
    const wipe = comparing ? store.wipe : null;
    const heat = store.view === "similar" ? this.#similar() : store.view === "heads" ? this.#headMap() : null;
    if (heat) painter.setHeat(heat);
    const nothing = !store.active.length && !this.slots.left;
    const focus =
      store.focus?.on && !store.focus.negative && store.view === "classes" ? this.#indexOf(store.focus) : -1;
    painter.draw({ view: heat ? "heat" : nothing ? "image" : "classes", opacity: store.opacity, wipe, focus });
  }

  #indexOf(word) {
    const index = this.store.active.indexOf(word);
    return index < 0 ? -1 : index + 1;
  }

  #similar() {
    const { features } = this.store.image;
    if (!this.point || !features.whole) return null;
    const patch = patchAt(features, this.point.x, this.point.y);
    return { w: features.w, h: features.h, values: similarPatches(features, patch) };
  }

  #headMap() {
    const { features } = this.store.image;
    if (this.head === null || !features.maps || !features.whole) return null;
    const count = features.w * features.h;
    return { w: features.w, h: features.h, values: features.maps.subarray(this.head * count, (this.head + 1) * count) };
  }
}
