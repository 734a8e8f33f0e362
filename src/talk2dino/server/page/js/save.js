// Downloads: what the page shows as an overlay, and the files that talk2dino itself writes, with the page's colours.

import * as api from "./api.js";
import { find, percent, toast } from "./dom.js";
import { pythonCode, shellCode } from "./code.js";
import { t } from "./text.js";

export class Saving {
  constructor(store, engine, model) {
    this.store = store;
    this.engine = engine;
    this.model = model;
    find("downloads").addEventListener("click", (event) => {
      const kind = event.target.dataset?.save;
      if (kind) this.save(kind).catch((error) => toast(error.message));
    });
    find("code").addEventListener("click", () => this.showCode());
    find("copy-python").addEventListener("click", () => copy(find("code-python")));
    find("copy-shell").addEventListener("click", () => copy(find("code-shell")));
    store.on("words image", () => {
      const ready = Boolean(store.image) && store.active.some((word) => !word.negative);
      for (const button of find("downloads").children) button.disabled = !ready;
    });
  }

  showCode() {
    find("code-python").textContent = pythonCode(this.store, this.model);
    find("code-shell").textContent = shellCode(this.store, this.model);
    find("code-dialog").showModal();
  }

  async save(kind) {
    const { store } = this;
    const name = store.image.name.replace(/\.[^.]*$/, "") || "image";
    const ask = (format) => store.ask((id) => api.segment(id, store.request({ format })));
    if (kind === "overlay") return download(await this.#overlay(), `${name}.overlay.png`);
    if (kind === "npz") return download(await ask("npz"), `${name}.npz`);
    if (kind === "png")
      return download(
        await recolour(await ask("png"), (names) => this.#colours(names), (await ask("json")).names),
        `${name}.labels.png`,
      );
    const answer = await ask("json");
    return download(
      new Blob([`${JSON.stringify(cocoDocument(answer, this.#colours(answer.names)))}\n`], {
        type: "application/json",
      }),
      `${name}.json`,
    );
  }

  /** The page's colour of each name; null where it has none. */
  #colours(names) {
    return names.map((name) => this.store.words.find((word) => word.name === name && !word.negative)?.colour ?? null);
  }

  /** Image and masks at the image's size, with a legend below. */
  async #overlay() {
    const { store, engine } = this;
    const { labels, width, height } = engine.exactLabels();
    const words = store.active.filter((word) => !word.negative);
    const counts = new Float64Array(store.active.length + 1);
    for (const label of labels) counts[label]++;
    const found = words
      .map((word, n) => ({ word, share: counts[n + 1] / labels.length }))
      .filter(({ share }) => share > 0)
      .sort((a, b) => b.share - a.share);
    const size = Math.max(13, Math.round(Math.sqrt(width * height) / 36));
    const columns = Math.max(1, Math.floor(width / (size * 13)));
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height + Math.ceil(found.length / columns) * size * 1.8 + size;
    const drawing = canvas.getContext("2d");
    drawing.fillStyle = "#ffffff";
    drawing.fillRect(0, 0, canvas.width, canvas.height);
    drawing.drawImage(store.image.bitmap, 0, 0, width, height);
    const pixels = drawing.getImageData(0, 0, width, height);
    paint(
      pixels.data,
      labels,
      width,
      [store.background || store.negatives ? [0, 0, 0] : null, ...store.active.map((word) => word.colour)],
      store.opacity,
    );
    drawing.putImageData(pixels, 0, 0);
    drawing.font = `${size}px system-ui, sans-serif`;
    drawing.textBaseline = "middle";
    found.forEach(({ word, share }, n) => {
      const x = size / 2 + (n % columns) * (width / columns);
      const y = height + size * (1.3 + 1.8 * Math.floor(n / columns));
      drawing.fillStyle = `rgb(${word.colour.join(" ")})`;
      drawing.fillRect(x, y - size / 2, size, size);
      drawing.fillStyle = "#1b1f24";
      drawing.fillText(`${word.name}  ${percent(share)}`, x + size * 1.5, y, width / columns - size * 2);
    });
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }
}

/** Mix colours into RGBA pixels, with white lines between labels, as the painter does. */
function paint(pixels, labels, width, colours, opacity) {
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i];
    const colour = colours[label];
    const weight = label === 0 ? 0.44 * opacity : opacity;
    const edge =
      ((i + 1) % width && labels[i + 1] !== label) || (i + width < labels.length && labels[i + width] !== label);
    for (let c = 0; c < 3; c++) {
      let value = pixels[4 * i + c];
      if (colour) value += (colour[c] - value) * weight;
      if (edge && opacity > 0) value += (255 - value) * 0.7;
      pixels[4 * i + c] = value;
    }
  }
}

/** The document that Segmentation.save writes as .json. */
function cocoDocument({ width, height, names, background, annotations, shares, palette, model, info }, colours) {
  return {
    images: [{ id: 0, width, height }],
    categories: names.map((name, id) => ({ id, name, color: colours[id] ?? palette[id] })),
    annotations,
    shares,
    names,
    background,
    model,
    info,
  };
}

/** A palette PNG with other colours: its PLTE chunk is written anew. */
async function recolour(blob, choose, names) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const view = new DataView(bytes.buffer);
  const colours = choose(names);
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    const length = view.getUint32(at);
    if (String.fromCharCode(...bytes.subarray(at + 4, at + 8)) !== "PLTE") continue;
    colours.forEach((colour, n) => {
      if (colour && 3 * n + 3 <= length) bytes.set(colour, at + 8 + 3 * n);
    });
    view.setUint32(at + 8 + length, crc32(bytes.subarray(at + 4, at + 8 + length)));
  }
  return new Blob([bytes], { type: "image/png" });
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return ~crc >>> 0;
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
    toast(t("copied"));
  } catch {
    getSelection().selectAllChildren(source);
    toast(t("copyFailed"));
  }
}
