// "This is a ...": drag a box or click a patch, give it a name, and it becomes a word.

import { element, find, toast } from "./dom.js";
import { boxOf, patchesOf } from "./examples.js";
import { t } from "./text.js";
import { forgetVector } from "./vectors.js";

const SMALLEST_DRAG = 4; // pixels on the screen; less is a click

export class Marking {
  constructor(store, engine) {
    this.store = store;
    this.engine = engine;
    this.start = null;
    const canvas = find("canvas");
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.start && this.#drag(event));
    canvas.addEventListener("pointerup", (event) => this.start && this.#up(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    find("mark").addEventListener("click", () => this.set(!store.marking));
    const dialog = find("example-dialog");
    dialog.querySelector("[value=cancel]").addEventListener("click", () => dialog.close("cancel"));
    dialog.addEventListener("close", () => this.#named(dialog.returnValue));
    store.on("image", () => this.set(false));
  }

  set(on) {
    this.store.marking = on;
    find("mark").setAttribute("aria-pressed", String(on));
    find("frame").classList.toggle("marking", on);
    find("box").hidden = true;
    this.start = null;
    if (on) {
      toast(t("markHint"));
      find("canvas").focus();
    }
  }

  #place(event) {
    const bounds = find("canvas").getBoundingClientRect();
    const share = (value) => Math.min(1, Math.max(0, value));
    return {
      x: share((event.clientX - bounds.left) / bounds.width),
      y: share((event.clientY - bounds.top) / bounds.height),
      clientX: event.clientX,
      clientY: event.clientY,
    };
  }

  #down(event) {
    if (!this.store.marking || event.button !== 0) return;
    event.preventDefault();
    this.start = this.#place(event);
    find("canvas").setPointerCapture(event.pointerId);
  }

  #drag(event) {
    const now = this.#place(event);
    const box = find("box");
    box.hidden = false;
    box.style.left = `${100 * Math.min(now.x, this.start.x)}%`;
    box.style.top = `${100 * Math.min(now.y, this.start.y)}%`;
    box.style.width = `${100 * Math.abs(now.x - this.start.x)}%`;
    box.style.height = `${100 * Math.abs(now.y - this.start.y)}%`;
  }

  #up(event) {
    const { width, height } = this.store.image;
    const [from, to] = [this.start, this.#place(event)];
    this.start = null;
    const clicked = Math.hypot(to.clientX - from.clientX, to.clientY - from.clientY) < SMALLEST_DRAG;
    const pixel = (share, length) => Math.min(length - 1, Math.floor(share * length));
    if (clicked) return this.#ask({ point: [pixel(to.x, width), pixel(to.y, height)] });
    const [x0, x1] = [from.x, to.x].sort((a, b) => a - b);
    const [y0, y1] = [from.y, to.y].sort((a, b) => a - b);
    const edge = (share, length) => Math.max(1, Math.ceil(share * length));
    this.#ask({ box: [pixel(x0, width), pixel(y0, height), edge(x1, width), edge(y1, height)] });
  }

  #key(event) {
    if (!this.store.marking) return;
    if (event.key === "Escape") this.set(false);
    if (event.key === "Enter" && this.engine.point) {
      event.preventDefault();
      this.#ask({ point: [this.engine.point.x, this.engine.point.y] });
    }
  }

  #ask(region) {
    this.region = region;
    const { image, words } = this.store;
    const count = patchesOf(image.features, region).length;
    find("example-size").textContent = count > 1 ? t("exampleSize", { count }) : t("exampleOnePatch");
    find("example-names").replaceChildren(
      ...words.filter((word) => !word.negative).map((word) => element("option", { value: word.name })),
    );
    this.#crop(image, region);
    const input = find("example-name");
    input.value = "";
    const dialog = find("example-dialog");
    dialog.returnValue = "";
    dialog.showModal();
    input.focus();
  }

  #crop(image, region) {
    const canvas = find("example-crop");
    const drawing = canvas.getContext("2d");
    let [x0, y0, x1, y1] = boxOf(region);
    if (region.point) {
      const around = Math.round(image.width / image.features.w);
      [x0, y0, x1, y1] = [x0 - around, y0 - around, x1 + around, y1 + around];
    }
    const scale = Math.min(canvas.width / (x1 - x0), canvas.height / (y1 - y0));
    const [w, h] = [(x1 - x0) * scale, (y1 - y0) * scale];
    drawing.clearRect(0, 0, canvas.width, canvas.height);
    drawing.drawImage(image.bitmap, x0, y0, x1 - x0, y1 - y0, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
  }

  #named(answer) {
    find("box").hidden = true;
    const name = find("example-name").value.replace(/\s+/g, " ").trim();
    if (answer !== "add" || !name || !this.region) return;
    const { store } = this;
    const example = { region: this.region, image: store.image };
    const word = store.addWord({ name, examples: [example] });
    forgetVector(word);
    store.changed("words");
    this.set(false);
  }
}
