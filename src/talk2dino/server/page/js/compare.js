// Two methods on one image, with a boundary that can be moved.

import * as api from "./api.js";
import { element, find, percent } from "./dom.js";
import { toHex } from "./palette.js";
import { readAnswer } from "./rle.js";
import { t } from "./text.js";

const NOTHING = { labels: new Uint16Array(1), width: 1, height: 1, classes: [], plain: true }; // the image alone
export class ComparePanel {
  constructor(store, engine, methods) {
    this.store = store;
    this.engine = engine;
    this.methods = methods;
    this.own = store.model.method; // computed in the browser
    this.sides = {
      left: this.own,
      right: methods.find((method) => method.name !== this.own && method.available)?.name ?? this.own,
    };
    this.answers = { left: null, right: null };
    this.messages = { left: "", right: "" };
    store.wipe = 0.5;
    const wipe = find("wipe");
    wipe.addEventListener("input", () => {
      store.wipe = Number(wipe.value);
      this.#place();
      store.changed("look");
    });
    let planned = 0;
    store.on("words labels image", () => {
      clearTimeout(planned);
      this.answers = { left: null, right: null };
      if (store.view === "compare") planned = setTimeout(() => this.ask(), 200);
    });
  }

  /** The view was opened or left. */
  show(open) {
    this.asking?.abort();
    for (const id of ["wipe", "divider", "left-name", "right-name"]) find(id).hidden = !open;
    if (!open) {
      if (this.sides.left !== this.own) this.engine.show("left", null);
      this.engine.show("right", null);
      if (this.store.refine) this.engine.hold(false);
      return;
    }
    this.#place();
    this.render();
    this.ask();
  }

  #place() {
    find("divider").style.left = `${100 * this.store.wipe}%`;
    for (const side of ["left", "right"]) find(`${side}-name`).textContent = this.sides[side];
  }

  #body(method) {
    const body = this.store.request({ method: method.name });
    if (method.name === this.own) return body;
    for (const field of ["examples", "negative_examples", "threshold", "clean"]) delete body[field];
    if (!method.takes_words || (method.threshold ?? null) === null) delete body.background;
    else if (body.background !== undefined) body.background = true; // thresholds of methods are not on one scale
    body.mode = method.modes.includes("whole") ? "whole" : method.default_mode;
    return body;
  }

  async ask() {
    if (!this.store.image) return;
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    for (const side of ["left", "right"]) await this.#ask(side, signal);
  }

  async #ask(side, signal) {
    const method = this.methods.find(({ name }) => name === this.sides[side]);
    if (side === "left" && method.name === this.own) return this.#done(side, null, "");
    if (!method.available)
      return this.#done(side, null, t("unavailable", { name: method.name, reason: method.reason }));
    if (method.takes_words && !this.store.active.length) return this.#done(side, null, t("noWords"));
    this.messages[side] = t("compareLoading", { name: method.name });
    this.render();
    try {
      const answer = await this.store.ask((id) => api.segment(id, this.#body(method), signal));
      if (!signal.aborted)
        this.#done(
          side,
          {
            ...readAnswer(answer),
            shares: answer.shares,
            words: method.takes_words,
            foreign: method.name !== this.own,
          },
          "",
        );
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) this.#done(side, null, error.message);
    }
  }

  #done(side, answer, message) {
    this.answers[side] = answer;
    this.messages[side] = message;
    const own = side === "left" && this.sides.left === this.own;
    if (!own) this.engine.show(side, answer ?? NOTHING);
    this.#place();
    this.render();
  }

  render() {
    if (this.store.view !== "compare" || !this.store.image) return;
    const sides = ["left", "right"].map((side) => this.#side(side));
    const focused = document.activeElement?.id;
    find("panel").replaceChildren(
      element("h3", {}, t("compareTitle")),
      element("p", { class: "hint" }, t("compareNote")),
      element("div", { class: "sides" }, ...sides),
    );
    if (focused?.startsWith("method-")) find(focused)?.focus();
  }

  #side(side) {
    const id = `method-${side}`;
    const choice = element(
      "select",
      {
        id,
        onchange: () => {
          this.sides[side] = choice.value;
          if (side === "left" && choice.value === this.own) this.engine.show("left", null);
          this.#place();
          this.ask();
        },
      },
      ...this.methods.map(({ name }) => element("option", { value: name, selected: name === this.sides[side] }, name)),
    );
    const method = this.methods.find(({ name }) => name === this.sides[side]);
    const parts = [element("label", { for: id }, t(side)), choice, element("p", { class: "help" }, method.description)];
    if (this.messages[side]) parts.push(element("p", { class: "message", role: "status" }, this.messages[side]));
    else parts.push(element("p", { class: "help" }, t(this.answers[side] ? "server" : "local")));
    const answer = this.answers[side];
    if (answer && !answer.words) {
      parts.push(
        element("p", { class: "help" }, t("segments")),
        element(
          "ul",
          { class: "legend" },
          ...answer.classes.map(({ name, colour }) => {
            const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
            swatch.style.backgroundColor = toHex(colour);
            return element("li", {}, swatch, `${name} ${percent(answer.shares?.[name] ?? 0)}`);
          }),
        ),
      );
    }
    return element("div", { class: "side-choice" }, ...parts);
  }
}
