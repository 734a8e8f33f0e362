// The exact call that gives what the page shows, for Python and for the shell.

import { writePrompt } from "./prompts.js";

const DEFAULT = "talk2dino"; // the method of the package
const quote = (text) => JSON.stringify(text);
const shellQuote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const number = (value) => String(Number(value.toFixed(6)));
const stem = (name) => name.replace(/\.[^.]*$/, "") || "image";

function classes(words) {
  if (words.every((word) => !word.synonyms.length)) return `[${words.map((word) => quote(word.name)).join(", ")}]`;
  return `{${words.map((word) => `${quote(word.name)}: [${(word.synonyms.length ? word.synonyms : [word.name]).map(quote).join(", ")}]`).join(", ")}}`;
}

function pythonExamples(words, image) {
  const one = ({ region, image: source }) =>
    `(${quote((source ?? image).name)}, (${(region.box ?? region.point).join(", ")}))`;
  return `{${words.map((word) => `${quote(word.name)}: [${word.examples.map(one).join(", ")}]`).join(", ")}}`;
}

function pythonBackground(store) {
  if (!store.background) return null;
  const wanted = store.active;
  if (wanted.every((word) => word.threshold === null))
    return store.threshold === null ? "True" : number(store.threshold);
  const named = wanted.filter((word) => store.threshold !== null || word.threshold !== null);
  return `{${named.map((word) => `${quote(word.name)}: ${number(store.thresholdOf(word))}`).join(", ")}}`;
}

/** Python for what the page shows. */
export function pythonCode(store, model) {
  const { image, active } = store;
  const groups = (negative, field) =>
    active.filter((word) => word.negative === negative && (field === "typed" ? word.typed : word.examples.length));
  const [typed, notTyped, shown, notShown] = [
    groups(false, "typed"),
    groups(true, "typed"),
    groups(false, "shown"),
    groups(true, "shown"),
  ];
  const method = model.method === DEFAULT ? "" : `, method=${quote(model.method)}`;
  const lines = [
    "from talk2dino import Segmenter",
    "",
    `segmenter = Segmenter.from_pretrained(${quote(model.name)}${method}, dtype=${quote(model.dtype)})`,
  ];
  const options = [
    ["background", pythonBackground(store)],
    ["clean", store.cleaning ? "True" : "False"],
    ["refine", store.refine ? "True" : null],
  ];
  let prompts = typed.length ? classes(typed) : "[]";
  if (shown.length || notShown.length) {
    const parts = [];
    const without = notTyped.length ? `, negative=${classes(notTyped)}` : "";
    if (typed.length) parts.push(`segmenter.encode_text(${classes(typed)}${without})`);
    parts.push(
      `segmenter.encode_examples(${pythonExamples(shown, image)}${notShown.length ? `, negative=${pythonExamples(notShown, image)}` : ""})`,
    );
    lines.push(`words = ${parts.join(" + ")}`);
    prompts = "words";
  } else if (notTyped.length) options.push(["negative", classes(notTyped)]);
  const given = options
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `, ${name}=${value}`)
    .join("");
  lines.push(
    `result = segmenter.segment(${quote(image.name)}, ${prompts}${given})`,
    `result.save(${quote(`${stem(image.name)}.labels.png`)})`,
    "print(result.shares())",
  );
  return lines.join("\n");
}

/** The command line for what the page shows. */
export function shellCode(store, model) {
  const { image, active } = store;
  const [wanted, unwanted] = [active.filter((word) => !word.negative), active.filter((word) => word.negative)];
  const parts = ["talk2dino segment", shellQuote(image.name), "--model", shellQuote(model.name)];
  const typed = (words) =>
    words
      .filter((word) => word.typed)
      .map(writePrompt)
      .join(", ");
  if (typed(wanted)) parts.push("--prompts", shellQuote(typed(wanted)));
  if (typed(unwanted)) parts.push("--negative", shellQuote(typed(unwanted)));
  for (const [option, words] of [
    ["--example", wanted],
    ["--negative-example", unwanted],
  ]) {
    for (const word of words) {
      for (const { region, image: source } of word.examples)
        parts.push(option, shellQuote(`${word.name}=${source.name}:${(region.box ?? region.point).join(",")}`));
    }
  }
  if (store.background) {
    parts.push("--background");
    if (store.threshold !== null) parts.push(number(store.threshold));
    for (const word of active)
      if (word.threshold !== null) parts.push("--threshold", shellQuote(`${word.name}=${number(word.threshold)}`));
  }
  parts.push(store.cleaning ? "--clean" : "--no-clean");
  if (store.refine) parts.push("--refine");
  if (model.method !== DEFAULT) parts.push("--method", shellQuote(model.method));
  parts.push("--dtype", model.dtype);
  parts.push("--save overlay,palette");
  return parts.join(" ");
}
