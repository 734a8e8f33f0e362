// What the person has chosen. Parts of the page read it, change it through its methods and are called after each change.

import { freeColour } from "./palette.js";

let nextKey = 1;

export class Store extends EventTarget {
  image = null; // {id, name, blob, width, height, bitmap, features}
  words = []; // in the order of the list
  background = false;
  threshold = null; // of all words; null: the model's own
  clean = null; // null: on exactly when there is a background
  refine = false;
  opacity = 0.6;
  view = "classes"; // "classes", "similar", "heads" or "compare"
  marking = false;
  focus = null; // the word under the pointer
  removed = null; // the last removed word and its place

  /** Say what changed: "image", "words", "labels" (thresholds, cleaning ...), "look" (colours, opacity, view). */
  changed(what) {
    this.dispatchEvent(new CustomEvent(what));
    this.dispatchEvent(new CustomEvent("any", { detail: what }));
  }

  on(what, call) {
    for (const one of what.split(" ")) this.addEventListener(one, call);
  }

  addWord({ name, synonyms = [], negative = false, examples = [] }) {
    const existing = this.words.find((word) => word.name === name && word.negative === negative);
    if (existing) {
      existing.synonyms = [...new Set([...existing.synonyms, ...synonyms])];
      existing.examples.push(...examples);
      existing.typed ||= !examples.length;
      existing.text = synonyms.length ? null : existing.text;
      existing.on = true;
      this.changed("words");
      return existing;
    }
    const word = {
      key: nextKey++,
      name,
      synonyms,
      negative,
      examples,
      typed: !examples.length,
      on: true,
      colour: null,
      threshold: null,
      text: null,
      vector: null,
      calibration: [1, 0],
      similarity: null,
      share: null,
      notes: [],
      understood: [],
      error: "",
    };
    this.words.push(word);
    this.changed("words");
    return word;
  }

  removeWord(word) {
    this.removed = { word, place: this.words.indexOf(word) };
    this.words = this.words.filter((one) => one !== word);
    if (this.focus === word) this.focus = null;
    this.changed("words");
  }

  restoreWord() {
    if (!this.removed) return;
    this.words.splice(this.removed.place, 0, this.removed.word);
    this.removed = null;
    this.changed("words");
  }

  /** Give a word its colour: the service's, or another if one in use looks the same. */
  colourWord(word, wanted) {
    const used = this.words.filter((one) => one !== word && one.colour).map((one) => one.colour);
    word.colour = freeColour(wanted, used);
  }

  /** Words that take part, positives first: the order of the scores. */
  get active() {
    const ready = this.words.filter((word) => word.on && word.vector);
    return [...ready.filter((word) => !word.negative), ...ready.filter((word) => word.negative)];
  }

  get negatives() {
    return this.active.filter((word) => word.negative).length;
  }

  get cleaning() {
    return this.clean ?? this.background;
  }

  thresholdOf(word) {
    return word.threshold ?? this.threshold ?? this.image.features.threshold;
  }

  /** Thresholds of the active words, or null for no background. */
  get thresholds() {
    return this.background ? this.active.map((word) => this.thresholdOf(word)) : null;
  }

  /** The body of a request that gives this result. */
  request(more = {}) {
    const active = this.active;
    const body = { clean: this.cleaning, refine: this.refine, mode: "whole" };
    for (const [field, negative] of [
      ["prompts", false],
      ["negative", true],
    ]) {
      const typed = active.filter((word) => word.negative === negative && word.typed);
      if (typed.length)
        body[field] = Object.fromEntries(
          typed.map((word) => [word.name, word.synonyms.length ? word.synonyms : [word.name]]),
        );
    }
    for (const [field, negative] of [
      ["examples", false],
      ["negative_examples", true],
    ]) {
      const shown = active.filter((word) => word.negative === negative && word.examples.length);
      if (shown.length)
        body[field] = Object.fromEntries(
          shown.map((word) => [
            word.name,
            word.examples.map((one) => ({
              ...one.region,
              ...(one.image !== this.image ? { image: one.image.id } : {}),
            })),
          ]),
        );
    }
    if (this.background) {
      body.background = this.threshold ?? true;
      const own = active.filter((word) => word.threshold !== null);
      if (own.length) body.threshold = Object.fromEntries(own.map((word) => [word.name, word.threshold]));
    }
    return { ...body, ...more };
  }
}
