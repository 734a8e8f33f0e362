// The prompt syntax of the command line: "sky, grass, car=red car|automobile"; see words/prompts.py.

/** [{name, synonyms}] of a line of text; a class without synonyms has an empty list. */
export function parsePrompts(text) {
  return text
    .split(/(?<!\\)[,，、;；\n]/)
    .map((entry) => entry.replace(/\\([,，、;；])/g, "$1").trim())
    .filter(Boolean)
    .map((entry) => {
      const equals = entry.indexOf("=");
      if (equals < 0) return { name: tidy(entry), synonyms: [] };
      return {
        name: tidy(entry.slice(0, equals)),
        synonyms: entry
          .slice(equals + 1)
          .split("|")
          .map(tidy)
          .filter(Boolean),
      };
    })
    .filter(({ name }) => name);
}

/** A word as the command line takes it. */
export function writePrompt({ name, synonyms }) {
  const escape = (text) => text.replace(/[,，、;；]/g, "\\$&");
  return synonyms.length ? `${escape(name)}=${synonyms.map(escape).join("|")}` : escape(name);
}

const tidy = (text) => text.replace(/\s+/g, " ").trim();
