// Background, thresholds, cleaning, refinement and opacity.

import { find, setText } from "./dom.js";
import { holdWhileDragging, sliderRange } from "./words.js";

export class Options {
  constructor(store, engine) {
    this.store = store;
    const choose = (id, apply) =>
      find(id).addEventListener("change", (event) => {
        apply(event.target.checked);
        store.changed("labels");
      });
    choose("background", (on) => {
      store.background = on;
    });
    choose("clean", (on) => {
      store.clean = on === store.background ? null : on;
    });
    choose("refine", (on) => {
      store.refine = on;
    });
    const threshold = find("threshold");
    threshold.addEventListener("input", () => {
      store.threshold = Number(threshold.value);
      store.changed("labels");
    });
    holdWhileDragging(threshold, engine);
    find("opacity").addEventListener("input", (event) => {
      store.opacity = Number(event.target.value);
      store.changed("look");
    });
    store.on("image labels words", () => this.update());
  }

  update() {
    const { store } = this;
    find("background").checked = store.background;
    find("clean").checked = store.cleaning;
    find("refine").checked = store.refine;
    find("threshold-row").hidden = !store.background || !store.image;
    if (!store.image) return;
    const { features } = store.image;
    find("clean").disabled = features.whole && !features.attention;
    const threshold = find("threshold");
    [threshold.min, threshold.max] = sliderRange(store);
    const value = store.threshold ?? features.threshold ?? 0.5;
    if (document.activeElement !== threshold) threshold.value = value;
    setText(find("threshold-value"), value.toFixed(3));
  }
}
