// What happens at the moment, in one line below the image; errors of the server as sentences.

import { find, setText } from "./dom.js";
import { t } from "./text.js";

export class Status {
  constructor() {
    this.line = "";
    this.state = null;
  }

  busy(message, kind = "") {
    find("busy").hidden = false;
    this.#show(kind === "embedding" ? t("embedding", { name: message }) : message);
  }

  idle(message = null) {
    find("busy").hidden = true;
    if (message !== null) this.line = message;
    this.#show();
  }

  /** What the labels on the screen are: "local", "preview", "refining", "refined" or "error". */
  result(state, values = {}) {
    this.state = state === "local" ? null : [state, values];
    find("busy").hidden = state !== "refining";
    if (state === "error") return this.error(values.message);
    return this.#show();
  }

  error(message) {
    find("busy").hidden = true;
    const place = find("error");
    place.hidden = false;
    setText(place, message);
    this.#show();
  }

  clearError() {
    find("error").hidden = true;
  }

  translate() {
    this.#show();
  }

  #show(message = null) {
    const state = this.state && this.state[0] !== "error" ? t(this.state[0], this.state[1]) : "";
    setText(find("status"), message ?? [this.line, state].filter(Boolean).join(" · "));
  }
}
