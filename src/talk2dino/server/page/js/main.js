// START HERE. The page: an image and words in, a mask for every word out, computed in the browser.
//
//     image --> session.js (encoded once on the server) --> features.js --+
//                                                                          v
//     words --> vectors.js (one small request each) --> store.js --> engine.js --> scores.js --> painter.js --> screen
//
// The server is asked again for refinement, for other methods and for files; everything else happens here.

import * as api from "./api.js";
import { ComparePanel } from "./compare.js";
import { element, find, setText, toast } from "./dom.js";
import { Engine } from "./engine.js";
import { HeadsPanel } from "./heads.js";
import { Marking } from "./marking.js";
import { Options } from "./options.js";
import { PointPanel } from "./point.js";
import { Saving } from "./save.js";
import { askAboutImage, openImage } from "./session.js";
import { Status } from "./status.js";
import { Store } from "./store.js";
import { switchLanguage, t, translate } from "./text.js";
import { embedWords } from "./vectors.js";
import { WordList } from "./words.js";

const store = new Store();
const status = new Status();
store.ask = (request) => askAboutImage(store, request);

function prepareTheme() {
  const root = document.documentElement;
  const kept = localStorage.getItem("talk2dino-theme");
  if (kept) root.dataset.theme = kept; // otherwise the style sheet follows the system
  find("theme").addEventListener("click", () => {
    const shown = root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = shown === "dark" ? "light" : "dark";
    localStorage.setItem("talk2dino-theme", root.dataset.theme);
  });
}

/** The dialog that asks for the token; resolves to the token, or null if it was closed. */
function askToken(wrong) {
  const dialog = find("token-dialog");
  find("token-wrong").hidden = !wrong;
  find("token").value = "";
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "add" ? find("token").value : null), {
      once: true,
    });
  });
}

async function waitUntilReady() {
  for (;;) {
    const answer = await api.readiness();
    if (answer?.status === "ready") return status.idle("");
    status.busy(answer ? t("loadingModel", { step: answer.step ?? "" }) : t("unreachable"));
    await new Promise((done) => setTimeout(done, 500));
  }
}

let opening = 0;

async function open(blob, name, prompts = "") {
  const turn = ++opening;
  status.clearError();
  try {
    await openImage(store, blob, name, status, () => turn === opening);
    if (turn !== opening) return;
    find("empty").hidden = true;
    find("frame").hidden = false;
    find("frame").style.setProperty("--ratio", String(store.image.width / store.image.height));
    find("toolbar").hidden = false;
    find("panel").hidden = false;
    list.suggest(prompts);
    if (!store.words.length) find("word-input").focus();
  } catch (error) {
    status.error(`${name}: ${error.message}`);
  }
}

function openFile(file) {
  if (file.type && !file.type.startsWith("image/")) return status.error(t("notImage", { name: file.name }));
  return open(file, file.name || "pasted.png");
}

function prepareOpening() {
  find("open").addEventListener("click", () => find("file").click());
  find("file").addEventListener("change", (event) => {
    if (event.target.files[0]) openFile(event.target.files[0]);
    event.target.value = "";
  });
  let inside = 0;
  const curtain = (shown) => {
    find("curtain").hidden = !shown;
  };
  addEventListener("dragenter", (event) => {
    if ([...event.dataTransfer.types].includes("Files")) curtain(Boolean(++inside));
  });
  addEventListener("dragleave", () => curtain(Boolean((inside = Math.max(0, inside - 1)))));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    curtain(Boolean((inside = 0)));
    if (event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) openFile(file);
  });
}

async function showExamples() {
  const examples = await api.examples();
  const tiles = await Promise.all(
    examples.map(async (example) => {
      const blob = await api.file(example.url.replace(/^\//, ""));
      const picture = element("img", {
        src: URL.createObjectURL(blob),
        alt: "",
        width: example.width,
        height: example.height,
      });
      const button = element(
        "button",
        { type: "button", onclick: () => open(blob, `${example.name}.png`, example.prompts) },
        picture,
        element("span", {}, example.name),
      );
      return element("li", {}, button);
    }),
  );
  find("gallery").replaceChildren(...tiles);
}

function prepareViews(point, heads, compare) {
  const set = (view) => {
    const before = store.view;
    store.view = view;
    if (before === "compare" || view === "compare") compare.show(view === "compare");
    find("cross").classList.toggle("away", !["classes", "similar"].includes(view));
    point.render();
    heads.render();
    store.changed("look");
  };
  for (const radio of document.querySelectorAll("input[name=view]"))
    radio.addEventListener("change", () => set(radio.value));
}

function prepareLanguage(parts) {
  translate();
  find("language").addEventListener("click", () => {
    switchLanguage();
    for (const part of parts) part();
  });
}

function showModel(model) {
  const badge = find("model");
  badge.hidden = false;
  badge.title = `${model.dtype}, ${model.size} px`;
  setText(badge, t("modelLabel", { name: model.name, device: model.device }));
}

prepareTheme();
translate();
prepareOpening();
let engine = null;
try {
  engine = new Engine(store, find("canvas"), (state, values) => status.result(state, values));
} catch {
  status.error(t("noWebgl"));
  throw new Error("WebGL2 is not available");
}
const list = new WordList(store, engine, Math.min(500, engine.painter.mostClasses));
const point = new PointPanel(store, engine);
const heads = new HeadsPanel(store, engine);
const marking = new Marking(store, engine);
const options = new Options(store, engine);
api.asking.token = askToken;
store.on("words", () => embedWords(store, status));
addEventListener("keydown", (event) => {
  const typing = /^(text|password)$/.test(event.target.type ?? "");
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && !typing && store.removed) {
    event.preventDefault();
    store.restoreWord();
    find("toast").hidden = true;
  }
});
addEventListener("pagehide", () => {
  if (store.image) api.forget(store.image.id); // should the page come back, the image is encoded again
});
// For tests and for the browser's console.
globalThis.talk2dino = { store, engine, open, marking };

async function start() {
  await waitUntilReady();
  const { loaded } = await api.models();
  store.model = loaded;
  const compare = new ComparePanel(store, engine, await api.methods());
  const saving = new Saving(store, engine, loaded);
  prepareViews(point, heads, compare);
  prepareLanguage([
    () => list.rebuild(),
    () => point.render(),
    () => heads.render(),
    () => compare.render(),
    () => options.update(),
    () => status.translate(),
    () => showModel(loaded),
  ]);
  showModel(loaded);
  await showExamples();
  globalThis.talk2dino.saving = saving;
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  status.error(error.message);
  toast(error.message);
});
