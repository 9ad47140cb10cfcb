// Questions to the server that this page came from, and its answers.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const part = encodeURIComponent;
export const slideUrl = (slide, rest = "") => `/api/slides/${part(slide)}${rest}`;

async function answer(response) {
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  if (response.headers.get("content-type")?.startsWith("application/json")) {
    message = (await response.json()).error;
  } else if (response.status === 401 || response.status === 403) {
    message = await response.text();
  }
  throw new Refused(message, response.status);
}

export async function get(url) {
  return (await answer(await (askedAhead(url) ?? fetch(url)))).json();
}

/** What ahead.js asked for already; once, since it may be another answer later. */
function askedAhead(url) {
  const asked = window.asked.get(url);
  window.asked.delete(url);
  return asked;
}

export async function getBytes(url) {
  return new Uint8Array(await (await answer(await fetch(url))).arrayBuffer());
}

export async function post(url, body) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return (await answer(response)).json();
}

export async function getBlob(url) {
  return (await answer(await fetch(url))).blob();
}

/** Decode a picture of one channel into its values. */
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const values = new Uint8Array(bitmap.width * bitmap.height);
  for (let i = 0; i < values.length; i += 1) values[i] = data[4 * i];
  return { width: bitmap.width, height: bitmap.height, values };
}

export const mapUrl = (slide, name) => slideUrl(slide, `/maps/${part(name)}`);
export const tileUrl = (slide, view, level, x, y, version) =>
  slideUrl(slide, `/tiles/${view}/${level}/${x}/${y}?v=${version}`);
