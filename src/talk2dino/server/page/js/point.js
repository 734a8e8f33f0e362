// Point at a pixel: the scores of all words there, and DINO's view of what is similar.

import { element, find } from "./dom.js";
import { toHex } from "./palette.js";
import { patchAt } from "./scores.js";
import { t } from "./text.js";

export class PointPanel {
  constructor(store, engine) {
    this.store = store;
    this.engine = engine;
    this.pinned = false;
    const canvas = find("canvas");
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerleave", () => this.pinned || this.set(null));
    canvas.addEventListener("click", (event) => this.#pin(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    store.on("image", () => {
      this.pinned = false;
      this.set(null);
    });
    store.on("drawn", () => this.render());
  }

  #place(event) {
    const { image } = this.store;
    const bounds = find("canvas").getBoundingClientRect();
    const inside = (value, most) => Math.min(most - 1, Math.max(0, Math.floor(value)));
    return {
      x: inside(((event.clientX - bounds.left) / bounds.width) * image.width, image.width),
      y: inside(((event.clientY - bounds.top) / bounds.height) * image.height, image.height),
    };
  }

  #move(event) {
    if (!this.store.image || this.pinned || this.store.marking) return;
    this.set(this.#place(event));
  }

  #pin(event) {
    if (!this.store.image || this.store.marking) return;
    const point = this.#place(event);
    const { features } = this.store.image;
    const again =
      this.pinned &&
      this.engine.point &&
      patchAt(features, point.x, point.y) === patchAt(features, this.engine.point.x, this.engine.point.y);
    this.pinned = !again;
    this.set(point);
  }

  #key(event) {
    const { image } = this.store;
    if (!image) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") {
      this.pinned = false;
      this.set(null);
    }
    if (!steps) return;
    event.preventDefault();
    const { w, h } = image.features;
    const at = this.engine.point ?? { x: Math.floor(image.width / 2), y: Math.floor(image.height / 2) };
    const clamp = (value, most) => Math.min(most - 1, Math.max(0, Math.round(value)));
    this.pinned = true;
    this.set({
      x: clamp(at.x + (steps[0] * image.width) / w, image.width),
      y: clamp(at.y + (steps[1] * image.height) / h, image.height),
    });
  }

  set(point) {
    this.engine.setPoint(point);
    this.#cross(point);
    this.render();
  }

  #cross(point) {
    const mark = find("cross");
    mark.hidden = !point || !this.store.image;
    if (mark.hidden) return;
    const { image } = this.store;
    const { w, h } = image.features;
    const patch = patchAt(image.features, point.x, point.y);
    mark.style.left = `${((patch % w) / w) * 100}%`;
    mark.style.top = `${(Math.floor(patch / w) / h) * 100}%`;
    mark.style.width = `${100 / w}%`;
    mark.style.height = `${100 / h}%`;
    mark.classList.toggle("pinned", this.pinned);
  }

  render() {
    const panel = find("panel");
    if (!this.store.image || !["classes", "similar"].includes(this.store.view)) return;
    const { point } = this.engine;
    const parts = [element("h3", {}, t("point"))];
    if (this.store.view === "similar") parts.push(element("p", { class: "hint" }, t("similarHint")));
    if (!this.store.image.features.whole) parts.push(element("p", { class: "hint" }, t("windows")));
    else if (!point) {
      if (this.store.view === "classes") parts.push(element("p", { class: "hint" }, t("pointHint")));
    } else {
      const { features } = this.store.image;
      const patch = patchAt(features, point.x, point.y);
      parts.push(
        element(
          "p",
          { class: "place" },
          t("pointAt", { ...point, row: Math.floor(patch / features.w), column: patch % features.w }),
        ),
        this.#bars(point),
      );
    }
    panel.replaceChildren(...parts);
  }

  #bars(point) {
    const { store, engine } = this;
    if (!engine.maps?.length || engine.maps.length !== store.active.length)
      return element("p", { class: "hint" }, t("pointNoWords"));
    const scores = engine.scoresAt(point).sort((a, b) => b.score - a.score);
    const all = [...scores.map(({ score }) => score), ...(store.thresholds ?? [])];
    const low = Math.min(...all);
    const span = Math.max(Math.max(...all) - low, 1e-6) / 0.94; // the smallest bar keeps a little length
    const share = (value) => `${100 * ((value - low) / span + 0.06)}%`;
    return element(
      "ul",
      { class: "bars", tabindex: "0", "aria-label": t("point") },
      ...scores.map(({ word, score }) => {
        const fill = element("span", { class: "fill" });
        fill.style.width = share(score);
        fill.style.backgroundColor = toHex(word.colour);
        const track = element("span", { class: "track", "aria-hidden": "true" }, fill);
        const reached = !store.background || score > store.thresholdOf(word);
        if (store.background) {
          const tick = element("span", { class: "tick" });
          tick.style.left = share(store.thresholdOf(word));
          track.append(tick);
        }
        return element(
          "li",
          { class: reached ? "" : "below" },
          element("span", { class: "name" }, word.name),
          track,
          element("span", { class: "value" }, score.toFixed(3)),
        );
      }),
    );
  }
}
