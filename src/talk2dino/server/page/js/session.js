// The image on the server: encoded once, encoded again without a word when it has expired there.

import * as api from "./api.js";
import { noFeatures, readFeatures } from "./features.js";
import { t } from "./text.js";
import { toast } from "./dom.js";

const COMPARED = ["published", "paper", "values", "residual", "patches"]; // variants whose scores are cosines of patches and words

/** Open an image: show it, encode it, fetch its features. */
export async function openImage(store, blob, name, status, wanted = () => true) {
  status.busy(t("encoding"));
  const started = performance.now();
  const image = { blob, name, id: null, features: null, bitmap: null, thumbnail: null };
  const [bitmap] = await Promise.all([createImageBitmap(blob).catch(() => null), encodeImage(image, store.model)]);
  image.bitmap = bitmap;
  if (!bitmap || bitmap.width !== image.width || bitmap.height !== image.height) {
    image.bitmap = await createImageBitmap(await api.picture(image.id)); // a format or orientation that the browser does not know
  }
  if (!wanted()) return api.forget(image.id); // another image was opened meanwhile
  const before = store.image;
  store.image = image;
  if (before?.id && !usedByExamples(store, before)) api.forget(before.id);
  store.changed("image");
  status.idle(
    t("encoded", {
      name,
      width: image.width,
      height: image.height,
      seconds: ((performance.now() - started) / 1000).toFixed(2),
    }),
  );
  return image;
}

const usedByExamples = (store, image) => store.words.some((word) => word.examples.some((one) => one.image === image));

async function encodeImage(image, model) {
  const answer = await api.encode(image.blob, image.name);
  image.id = answer.id;
  image.width = answer.width;
  image.height = answer.height;
  image.notes = answer.notes ?? [];
  image.features = answer.mode === "whole" ? readFeatures(await api.features(answer.id)) : noFeatures(image, model);
  image.features.whole &&= COMPARED.includes(image.features.variant);
}

/** Run a request about the current image; if it has expired on the server, encode it again and ask once more. */
export async function askAboutImage(store, request) {
  try {
    return await request(store.image.id);
  } catch (error) {
    if (error.status !== 404) throw error;
    const images = new Set([store.image, ...store.words.flatMap((word) => word.examples.map((one) => one.image))]);
    for (const image of images) image.id = (await api.encode(image.blob, image.name)).id;
    toast(t("expired"));
    return request(store.image.id);
  }
}
