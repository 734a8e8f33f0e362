// COCO's run lengths to labels; the code is described in io/rle.py.

/** Alternating lengths outside and inside the mask, down the columns. */
export function decompress(text) {
  const counts = [];
  for (let i = 0; i < text.length;) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more) {
      const group = text.charCodeAt(i++) - 48;
      value |= (group & 31) << shift;
      more = Boolean(group & 32);
      shift += 5;
      if (!more && group & 16) value |= -1 << shift;
    }
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

/**
 * The labels of a JSON answer of the service: Uint16Array (height * width), 0 for the background or for no class and n + 1
 * for the n-th class that is not the background; and the names of those classes with their colours.
 */
export function readAnswer({ width, height, names, background, annotations, palette }) {
  const classes = names
    .map((name, index) => ({ name, colour: palette[index], index }))
    .filter(({ index }) => index !== background);
  const labels = new Uint16Array(width * height);
  for (const { category_id: id, segmentation } of annotations) {
    const label = classes.findIndex(({ index }) => index === id) + 1;
    let at = 0;
    decompress(segmentation.counts).forEach((length, run) => {
      if (run % 2) for (let i = at; i < at + length; i++) labels[(i % height) * width + Math.floor(i / height)] = label;
      at += length;
    });
  }
  return { labels, width, height, classes };
}
