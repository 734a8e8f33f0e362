// Shows /openapi.json as a page. Everything comes from this service, and nothing is written as HTML.

const METHODS = ["get", "post", "put", "patch", "delete"];

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

function resolved(api, schema, depth = 0) {
  if (!schema || !schema.$ref || depth > 20) return schema ?? {};
  const target = schema.$ref.split("/").slice(1).reduce((value, key) => value?.[key], api);
  return resolved(api, target, depth + 1);
}

function typeOf(api, schema, depth = 0) {
  const own = resolved(api, schema);
  if (depth > 4) return "...";
  if (own.enum) return own.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (own.const !== undefined) return JSON.stringify(own.const);
  const several = own.anyOf ?? own.oneOf;
  if (several) {
    const kinds = several.map((one) => typeOf(api, one, depth + 1)).filter((kind) => kind !== "null");
    return [...new Set(kinds)].join(" | ");
  }
  if (own.type === "array") return `list of ${own.items ? typeOf(api, own.items, depth + 1) : "anything"}`;
  if (own.type === "object" && own.additionalProperties && own.additionalProperties !== true) {
    return `object of ${typeOf(api, own.additionalProperties, depth + 1)}`;
  }
  if (own.format === "binary") return "file";
  return own.type ?? "anything";
}

function table(api, rows) {
  if (!rows.length) return null;
  const body = rows.map(([name, schema, required, description]) =>
    make("tr", {},
      make("td", {}, name + (required ? " *" : "")),
      make("td", { className: "type" }, typeOf(api, schema)),
      make("td", {}, description ?? resolved(api, schema).description ?? "")));
  const head = make("tr", {}, ...["field", "type", "meaning"].map((text) => make("th", { scope: "col" }, text)));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

function code(text) {
  return make("pre", { tabIndex: 0 }, text);
}

function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function exampleOf(api, content) {
  const schema = resolved(api, content?.schema);
  if (content?.example !== undefined) return content.example;
  if (content?.examples) return Object.values(content.examples)[0]?.value;
  return schema.examples?.[0] ?? schema.example;
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function curl(api, method, path, body) {
  const parts = ["curl"];
  if (method !== "get" && !(method === "post" && body)) parts.push("-X", method.toUpperCase());
  for (const [type, content] of Object.entries(body?.content ?? {})) {
    const example = exampleOf(api, content);
    if (type === "multipart/form-data") {
      parts.push("-F image=@photo.jpg");
      for (const [name, value] of Object.entries(example ?? {})) parts.push(`-F ${quoted(`${name}=${pretty(value)}`)}`);
    } else if (type === "application/json") {
      parts.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(example ?? {}))}`);
    }
    break;
  }
  parts.push(quoted(location.origin + path));
  return parts.join(" ");
}

function copyButton(text) {
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy by hand";
    }
  });
  return button;
}

function requestPart(api, operation) {
  const nodes = [];
  const parameters = (operation.parameters ?? []).map((one) => resolved(api, one));
  const rows = parameters.map((one) => [one.name, one.schema, one.required, one.description ?? `in the ${one.in}`]);
  if (rows.length) nodes.push(make("h3", {}, "Parameters"), table(api, rows));
  for (const [type, content] of Object.entries(resolved(api, operation.requestBody)?.content ?? {})) {
    const schema = resolved(api, content.schema);
    const required = new Set(schema.required ?? []);
    const fields = Object.entries(schema.properties ?? {}).map(([name, own]) => [name, own, required.has(name)]);
    nodes.push(make("h3", {}, `Body: ${type}`), table(api, fields) ?? make("p", {}, typeOf(api, schema)));
    const example = exampleOf(api, content);
    if (example !== undefined) nodes.push(code(pretty(example)));
  }
  return nodes.filter(Boolean);
}

function responsePart(api, operation) {
  const nodes = [make("h3", {}, "Answers")];
  for (const [status, given] of Object.entries(operation.responses ?? {})) {
    const response = resolved(api, given);
    const kinds = Object.keys(response.content ?? {}).join(", ");
    nodes.push(make("p", {}, make("span", { className: "code" }, status), ` ${response.description ?? ""}${kinds ? ` (${kinds})` : ""}`));
    const example = Number(status) < 300 ? exampleOf(api, Object.values(response.content ?? {})[0]) : undefined;
    if (example !== undefined) nodes.push(code(pretty(example)));
  }
  return nodes;
}

function operationNode(api, method, path, operation) {
  const command = curl(api, method, path, resolved(api, operation.requestBody));
  const inside = make("div", { className: "inside" });
  const node = make("details", {},
    make("summary", {},
      make("span", { className: `method ${method}` }, method.toUpperCase()),
      make("span", { className: "path" }, path),
      make("span", { className: "what" }, operation.summary ?? "")),
    inside);
  node.addEventListener("toggle", () => {
    if (!node.open || inside.childElementCount) return;
    inside.append(
      make("p", {}, operation.description ?? ""),
      ...requestPart(api, operation),
      make("h3", {}, "Try it"), code(command), copyButton(command),
      ...responsePart(api, operation));
  });
  node.dataset.words = `${method} ${path} ${operation.summary ?? ""} ${operation.description ?? ""}`.toLowerCase();
  return node;
}

function show(api) {
  document.title = api.info.title;
  document.getElementById("title").textContent = `${api.info.title} ${api.info.version}`;
  document.getElementById("about").textContent = api.info.description ?? "";
  const groups = new Map();
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((name) => operations[name])) {
      const tag = operations[method].tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operationNode(api, method, path, operations[method]));
    }
  }
  const sections = [...groups].map(([tag, nodes]) => make("section", {}, make("h2", {}, tag), ...nodes));
  document.getElementById("operations").replaceChildren(...sections);
}

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const section of document.querySelectorAll("section")) {
    const nodes = [...section.querySelectorAll("details")];
    for (const node of nodes) node.hidden = !words.every((word) => node.dataset.words.includes(word));
    section.hidden = nodes.every((node) => node.hidden);
  }
}

document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value));
try {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`status ${response.status}`);
  show(await response.json());
} catch (error) {
  document.getElementById("about").textContent = `The description of the API could not be loaded: ${error.message}`;
}
