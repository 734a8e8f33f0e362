// Keeps the vectors and colours of the words up to date: one small request for what is new.

import * as api from "./api.js";
import { wordVector } from "./examples.js";
import { DISTINCT } from "./palette.js";

const known = new Map(); // name and synonyms -> {vector, colour, notes, understood}

const keyOf = (word) => JSON.stringify([word.name, word.synonyms]);

let planned = false;

export async function embedWords(store, status) {
  if (planned) return;
  planned = true;
  await null; // words that are added together are asked for together
  planned = false;
  const missing = store.words.filter((word) => word.typed && !word.text && !word.error && !word.pending);
  const fresh = missing.filter((word) => !known.has(keyOf(word)));
  if (fresh.length) {
    for (const word of fresh) word.pending = true;
    await requestWords(fresh, status);
    for (const word of fresh) word.pending = false;
  }
  let changed = false;
  for (const word of store.words) changed = fill(store, word) || changed;
  if (changed) store.changed("words");
}

async function requestWords(words, status) {
  status.busy(words.map((word) => word.name).join(", "), "embedding");
  try {
    await remember(words);
  } catch (error) {
    if (words.length === 1) words[0].error = error.message;
    else {
      for (const word of words) {
        // one bad word does not stop the others
        await remember([word]).catch((reason) => {
          word.error = reason.message;
        });
      }
    }
  }
  status.idle();
}

async function remember(words) {
  // The same name may stand in the list as wanted and as not wanted; a request names each class once.
  const rounds = [[], []];
  for (const word of words) rounds[rounds[0].some((one) => one.name === word.name) ? 1 : 0].push(word);
  for (const round of rounds.filter((one) => one.length)) {
    const prompts = Object.fromEntries(
      round.map((word) => [word.name, word.synonyms.length ? word.synonyms : [word.name]]),
    );
    const answer = await api.words(prompts);
    for (const word of round) {
      const n = answer.names.indexOf(word.name);
      if (n < 0) throw new Error(answer.notes?.join(" ") || word.name);
      const given = [word.name, ...word.synonyms];
      known.set(keyOf(word), {
        vector: answer.vectors[n],
        colour: answer.palette?.[n] ?? null,
        understood: (answer.understood ?? []).filter(([text]) => given.includes(text)),
        notes: round.length === 1 ? (answer.notes ?? []) : [],
      });
    }
  }
}

/** Give a word what is known about it; whether anything changed. */
function fill(store, word) {
  const found = known.get(keyOf(word));
  if (word.typed && !word.text && found) {
    word.text = found.vector;
    word.understood = found.understood;
    word.notes = found.notes;
  }
  if (!word.colour && (found || !word.typed)) {
    const wanted = found?.colour ?? DISTINCT[word.key % DISTINCT.length];
    store.colourWord(word, wanted);
  }
  if (word.vector || (word.typed && !word.text)) return false;
  Object.assign(word, wordVector(word) ?? {});
  word.similarity = null;
  return word.vector !== null;
}

/** A word's synonyms or examples changed: its vector is made again. */
export function forgetVector(word, { text = false } = {}) {
  word.vector = null;
  word.similarity = null;
  word.error = "";
  if (text) word.text = null;
}
