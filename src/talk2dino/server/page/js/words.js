// The list of words: a chip for each, with colour, switch, area share, and settings that fold out.

import { cross, dots, element, find, percent, setText, toast } from "./dom.js";
import { fromHex, toHex } from "./palette.js";
import { parsePrompts, writePrompt } from "./prompts.js";
import { t } from "./text.js";
import { forgetVector } from "./vectors.js";

export class WordList {
  constructor(store, engine, mostWords) {
    this.store = store;
    this.engine = engine;
    this.mostWords = mostWords;
    this.rows = new Map(); // word.key -> row
    find("word-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.add(false);
    });
    find("word-input").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.shiftKey) {
        event.preventDefault();
        this.add(true);
      }
    });
    find("add-negative").addEventListener("click", () => this.add(true));
    store.on("words look image shares", () => this.update());
    store.on("labels", () => this.updateSettings());
  }

  add(negative) {
    const input = find("word-input");
    const found = parsePrompts(input.value);
    if (this.store.words.length + found.length > this.mostWords) {
      toast(t("tooMany", { count: this.mostWords }));
      return;
    }
    for (const word of found) this.store.addWord({ ...word, negative });
    input.value = "";
    input.focus();
  }

  /** Offer the words that go with an example image. */
  suggest(prompts) {
    const place = find("tries");
    const words = parsePrompts(prompts);
    place.replaceChildren(
      element("span", { "data-t": "tryWords" }, t("tryWords")),
      ...words.map((word) =>
        element(
          "button",
          { type: "button", "data-try": word.name, onclick: () => this.store.addWord(word) },
          word.name,
        ),
      ),
    );
    this.#refreshTries();
  }

  /** Hide what is in the list. */
  #refreshTries() {
    const buttons = [...find("tries").querySelectorAll("button")];
    for (const button of buttons) button.hidden = this.store.words.some((word) => word.name === button.dataset.try);
    find("tries").hidden = buttons.every((button) => button.hidden);
  }

  /** Draw all rows again, in another language. */
  rebuild() {
    this.rows.clear();
    find("words").replaceChildren();
    this.update();
  }

  update() {
    const { words } = this.store;
    const list = find("words");
    const keys = new Set(words.map((word) => word.key));
    for (const [key, row] of this.rows) {
      if (!keys.has(key)) {
        row.item.remove();
        this.rows.delete(key);
      }
    }
    words.forEach((word, place) => {
      let row = this.rows.get(word.key);
      if (!row) {
        row = this.#build(word);
        this.rows.set(word.key, row);
      }
      if (list.children[place] !== row.item) list.insertBefore(row.item, list.children[place] ?? null);
      this.#refresh(row, word);
    });
    this.#refreshTries();
    const hint = find("no-words");
    hint.hidden = words.some((word) => word.on);
    setText(hint, t(words.length ? "allOff" : "noWords"));
    const notes = [...new Set([...(this.store.image?.notes ?? []), ...words.flatMap((word) => word.notes)])];
    find("notes").hidden = !notes.length;
    find("notes").replaceChildren(...notes.map((note) => element("li", {}, note)));
  }

  /** Thresholds changed; this runs for every step of a dragged slider. */
  updateSettings() {
    for (const word of this.store.words) {
      const row = this.rows.get(word.key);
      if (!row.settings.hidden) this.#refreshSettings(row, word);
    }
  }

  #build(word) {
    const { store } = this;
    const { name } = word;
    const parts = {
      colour: element("input", {
        type: "color",
        class: "colour",
        "aria-label": t("colourOf", { name }),
        oninput: (event) => {
          word.colour = fromHex(event.target.value);
          store.changed("look");
        },
      }),
      on: element("input", {
        type: "checkbox",
        class: "eye",
        "aria-label": t("showWord", { name }),
        onchange: (event) => {
          word.on = event.target.checked;
          store.changed("words");
        },
      }),
      name: element("span", { class: "name" }, name),
      tag: element("span", { class: "tag" }),
      detail: element("span", { class: "detail" }),
      share: element("span", { class: "share" }),
      fill: element("span", { class: "fill" }),
      more: element(
        "button",
        {
          type: "button",
          class: "icon quiet more",
          "aria-expanded": "false",
          "aria-label": t("moreOf", { name }),
          title: t("moreOf", { name }),
        },
        dots(),
      ),
    };
    parts.settings = this.#settings(word, parts);
    parts.more.addEventListener("click", () => {
      parts.settings.hidden = !parts.settings.hidden;
      parts.more.setAttribute("aria-expanded", String(!parts.settings.hidden));
      this.#refresh(parts, word);
    });
    const remove = element(
      "button",
      {
        type: "button",
        class: "icon quiet",
        "aria-label": t("removeWord", { name }),
        title: t("removeWord", { name }),
        onclick: () => this.#remove(word),
      },
      cross(),
    );
    parts.item = element(
      "li",
      { class: "word", "data-name": name },
      element(
        "div",
        { class: "row" },
        parts.colour,
        parts.on,
        element(
          "div",
          { class: "text" },
          element("span", { class: "line" }, parts.name, parts.tag),
          parts.detail,
          element("span", { class: "bar-line", "aria-hidden": "true" }, parts.fill),
        ),
        parts.share,
        parts.more,
        remove,
      ),
      parts.settings,
    );
    const focus = (on) => () => {
      store.focus = on ? word : null;
      store.changed("look");
    };
    parts.item.addEventListener("pointerenter", focus(true));
    parts.item.addEventListener("pointerleave", focus(false));
    return parts;
  }

  #remove(word) {
    this.store.removeWord(word);
    find("word-input").focus();
    toast(t("removed", { name: word.name }), t("undo"), () => this.store.restoreWord());
  }

  #settings(word, parts) {
    const { store, engine } = this;
    const id = `word-${word.key}`;
    const { name } = word;
    parts.own = element("input", {
      type: "checkbox",
      id: `${id}-own`,
      onchange: (event) => {
        word.threshold = event.target.checked ? store.thresholdOf(word) : null;
        if (event.target.checked) store.background = true;
        store.changed("labels");
      },
    });
    parts.threshold = element("input", {
      type: "range",
      step: 0.001,
      "aria-label": t("ownThreshold", { name }),
      oninput: (event) => {
        word.threshold = Number(event.target.value);
        store.background = true;
        store.changed("labels");
      },
    });
    holdWhileDragging(parts.threshold, engine);
    parts.value = element("output", { for: `${id}-own` });
    parts.negative = element("input", {
      type: "checkbox",
      onchange: (event) => {
        word.negative = event.target.checked;
        store.changed("words");
      },
    });
    parts.synonyms = element("input", {
      type: "text",
      id: `${id}-synonyms`,
      value: word.synonyms.join("|"),
      maxlength: 2000,
      onchange: (event) => {
        word.synonyms = parsePrompts(`x=${event.target.value.replace(/[,，、;；]/g, "|")}`)[0]?.synonyms ?? [];
        word.typed = true;
        forgetVector(word, { text: true });
        store.changed("words");
      },
    });
    return element(
      "div",
      { class: "settings", hidden: true },
      element(
        "div",
        { class: "option slider" },
        element("label", { class: "switch" }, parts.own, element("span", {}, t("useOwn"))),
        parts.value,
        parts.threshold,
      ),
      element("label", { class: "switch" }, parts.negative, element("span", {}, t("negativeHelp"))),
      element("label", { for: `${id}-synonyms` }, t("synonyms")),
      parts.synonyms,
    );
  }

  #refresh(row, word) {
    const { store } = this;
    const colour = word.colour ?? [128, 128, 128];
    row.item.classList.toggle("off", !word.on);
    row.item.classList.toggle("failed", Boolean(word.error));
    const hex = toHex(colour);
    if (document.activeElement !== row.colour && row.colour.value !== hex) row.colour.value = hex;
    row.on.checked = word.on;
    setText(
      row.tag,
      word.negative
        ? t("negative")
        : word.examples.length
          ? word.examples.length > 1
            ? t("exampleCount", { count: word.examples.length })
            : t("exampleOf")
          : "",
    );
    row.tag.hidden = !row.tag.textContent;
    const understood = word.understood
      .filter(([given, meant]) => given !== meant)
      .map(([, meant, how]) => t("understood", { word: meant, how }));
    setText(row.detail, word.error || [word.synonyms.join(" · "), ...understood].filter(Boolean).join(" · "));
    row.detail.hidden = !row.detail.textContent;
    const counted = word.on && !word.negative && word.share !== null && Boolean(store.image) && Boolean(word.vector);
    setText(row.share, counted ? (word.share ? percent(word.share) : t("notFound")) : "");
    row.share.classList.toggle("missing", counted && !word.share);
    row.fill.style.width = counted ? `${100 * word.share}%` : "0";
    row.fill.style.backgroundColor = hex;
    if (!row.settings.hidden) this.#refreshSettings(row, word);
  }

  #refreshSettings(row, word) {
    const { store } = this;
    const features = store.image?.features;
    row.negative.checked = word.negative;
    row.own.checked = word.threshold !== null;
    row.threshold.disabled = word.threshold === null;
    if (features) {
      [row.threshold.min, row.threshold.max] = sliderRange(store);
      row.threshold.value = store.thresholdOf(word);
      setText(row.value, store.thresholdOf(word).toFixed(3));
    }
  }
}

/** Ends of the threshold sliders: where scores of words are found. */
export function sliderRange(store) {
  const { variant, thresholdRange } = store.image.features;
  return variant === "published" ? [0.4, 0.75] : thresholdRange;
}

/** Tell the engine while a range input is held with the pointer. */
export function holdWhileDragging(input, engine) {
  input.addEventListener("pointerdown", () => engine.hold(true));
  for (const end of ["pointerup", "pointercancel", "change"]) input.addEventListener(end, () => engine.hold(false));
}

export const writePrompts = (words) => words.map(writePrompt).join(", ");
