// Small helpers to build elements.

/** element("button", {class: "x", onclick: f, "aria-label": "..."}, "text", child, ...) */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const find = (id) => document.getElementById(id);

/** Write only what changed, so that screen readers and layout are left in peace. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export const cross = () => icon("M6 6l12 12M18 6L6 18");
export const dots = () => icon("M5 12h.01M12 12h.01M19 12h.01", 3.2);

function icon(path, width = 2) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  for (const [name, value] of Object.entries({
    d: path,
    fill: "none",
    stroke: "currentColor",
    "stroke-width": width,
    "stroke-linecap": "round",
  })) {
    line.setAttribute(name, value);
  }
  svg.append(line);
  return svg;
}

export const percent = (share) =>
  share >= 0.0995 || share === 0 ? `${Math.round(100 * share)} %` : `${(100 * share).toFixed(1)} %`;

let hideToast = 0;

/** A short message at the bottom, with an optional button. */
export function toast(message, action = "", run = null) {
  const place = find("toast");
  const hide = () => {
    place.hidden = true;
  };
  place.replaceChildren(element("span", {}, message));
  if (run)
    place.append(
      element(
        "button",
        {
          type: "button",
          onclick: () => {
            hide();
            run();
          },
        },
        action,
      ),
    );
  place.hidden = false;
  clearTimeout(hideToast);
  hideToast = setTimeout(hide, run ? 12000 : 4000);
}

/** Draw (h * w) values as a small picture, dark to bright, over the whole range. */
export function drawMap(canvas, values, w, h) {
  canvas.width = w;
  canvas.height = h;
  const picture = new ImageData(w, h);
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const stops = [
    [15, 8, 41],
    [122, 28, 110],
    [237, 105, 38],
    [252, 252, 191],
  ];
  for (let p = 0; p < w * h; p++) {
    const place = (3 * (values[p] - low)) / Math.max(high - low, 1e-12);
    const first = Math.min(2, Math.floor(place));
    for (let c = 0; c < 3; c++)
      picture.data[4 * p + c] = stops[first][c] + (stops[first + 1][c] - stops[first][c]) * (place - first);
    picture.data[4 * p + 3] = 255;
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}
