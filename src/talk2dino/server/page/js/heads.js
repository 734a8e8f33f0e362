// The attention heads: where each one looks, and which of them answer to each word.

import { drawMap, element, find } from "./dom.js";
import { toHex } from "./palette.js";
import { headCosines } from "./scores.js";
import { t } from "./text.js";

export class HeadsPanel {
  constructor(store, engine) {
    this.store = store;
    this.engine = engine;
    this.word = null; // the word whose answers stand on the cards; null: the first one
    store.on("words image look", () => this.render());
  }

  render() {
    const { store } = this;
    if (store.view !== "heads" || !store.image) return;
    const { features } = store.image;
    const parts = [element("h3", {}, t("headsTitle")), element("p", { class: "hint" }, t("headsHint"))];
    if (!features.whole) parts.push(element("p", {}, t("windows")));
    else if (!features.maps || !features.heads) parts.push(element("p", {}, t("noHeads")));
    else {
      this.engine.head ??= 0;
      const words = store.active;
      const answers = new Map(words.map((word) => [word, headCosines(features.heads, features, word.vector)]));
      if (!words.includes(this.word)) this.word = words[0] ?? null;
      parts.push(this.#cards(features, answers), words.length ? this.#table(words, answers, features.headCount) : "");
    }
    const focused = document.activeElement?.dataset?.key;
    find("panel").replaceChildren(...parts);
    if (focused) find("panel").querySelector(`[data-key="${focused}"]`)?.focus();
  }

  #cards(features, answers) {
    const count = features.w * features.h;
    const cosines = this.word && answers.get(this.word);
    const best = cosines ? cosines.indexOf(Math.max(...cosines)) : -1;
    return element(
      "div",
      { class: "cards" },
      ...Array.from({ length: features.headCount }, (_, head) => {
        const picture = element("canvas", { "aria-hidden": "true" });
        drawMap(picture, features.maps.subarray(head * count, (head + 1) * count), features.w, features.h);
        const value = cosines ? cosines[head].toFixed(2) : "";
        const card = element(
          "button",
          {
            type: "button",
            class: "head-card",
            "data-key": `head-${head}`,
            "aria-pressed": String(this.engine.head === head),
            onclick: () => {
              this.engine.showHead(head);
              this.render();
            },
          },
          picture,
          element("span", {}, t("head", { number: head + 1 }), cosines ? element("b", {}, value) : ""),
        );
        if (this.word) {
          card.setAttribute(
            "aria-label",
            t("headOf", { number: head + 1, value, word: this.word.name }) +
              (head === best ? `, ${t("best", { word: this.word.name })}` : ""),
          );
          if (head === best) {
            card.classList.add("best");
            card.style.setProperty("--word", toHex(this.word.colour));
            card.append(element("span", { class: "chosen" }, t("best", { word: this.word.name })));
          }
        }
        return card;
      }),
    );
  }

  #table(words, answers, count) {
    const heads = Array.from({ length: count }, (_, head) => element("th", { scope: "col" }, String(head + 1)));
    const rows = words.map((word) => {
      const cosines = answers.get(word);
      const low = Math.min(...cosines);
      const high = Math.max(...cosines);
      const cells = Array.from(cosines, (value) => {
        const cell = element("td", { class: value === high ? "best" : "" }, value.toFixed(2));
        cell.style.setProperty("--strength", `${Math.round((40 * (value - low)) / Math.max(high - low, 1e-9))}%`);
        return cell;
      });
      const choose = element(
        "button",
        {
          type: "button",
          class: "quiet",
          "data-key": `word-${word.key}`,
          "aria-pressed": String(word === this.word),
          onclick: () => {
            this.word = word;
            this.engine.showHead(cosines.indexOf(high));
            this.render();
          },
        },
        word.name,
      );
      const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.backgroundColor = toHex(word.colour);
      return element("tr", {}, element("th", { scope: "row" }, swatch, choose), ...cells);
    });
    return element(
      "div",
      { class: "table-frame", tabindex: "0", role: "region", "aria-label": t("headTable") },
      element(
        "table",
        { class: "head-table" },
        element("caption", {}, t("headTable")),
        element("thead", {}, element("tr", {}, element("th", { scope: "col" }, t("word")), ...heads)),
        element("tbody", {}, ...rows),
      ),
    );
  }
}
