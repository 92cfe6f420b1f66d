// The price of the image in the box: what has to be downloaded and built, and what a client pulls.

import { ask } from "./ask.js";
import { element, shown, size } from "./text.js";

const QUIET = 600; // milliseconds without a key before the registry is asked

const lines = document.getElementById("price-lines");
const having = document.getElementById("having");
const link = document.getElementById("preview-link");

let image = null;
let asking = null;
let timer = null;

// Shows the price of an image; without one there is none.
export function showPrice(name) {
  const known = name === image;
  image = name;
  if (known) return;
  clearTimeout(timer);
  asking?.abort();
  lines.replaceChildren();
  if (!image) return;
  if (link) link.href = `/images/${image}:latest`;
  estimatePrice();
}

async function estimatePrice() {
  asking?.abort();
  const mine = (asking = new AbortController());
  say("Working out the price …");
  lines.setAttribute("aria-busy", "true");
  const query = having.value.trim() ? `?with=${encodeURIComponent(having.value.trim())}` : "";
  try {
    const estimate = await ask(`/api/estimate/${image}${query}`, mine.signal);
    if (mine.signal.aborted) return;
    if (estimate.error) say(`Not known: ${estimate.error}.`);
    else say(...estimate.platforms.map((each) => (estimate.platforms.length > 1 ? `${each.platform}: ` : "") + describe(each)));
  } catch (error) {
    if (error.name === "AbortError") return;
    say("Not known: the registry does not answer.");
  } finally {
    if (asking === mine) lines.removeAttribute("aria-busy");
  }
}

function say(...texts) {
  lines.replaceChildren(...texts.map((text) => element("p", {}, element("bdi", {}, shown(text)))));
}

const count = (number, one) => `${number} ${one}${number === 1 ? "" : "s"}`;

function describe(platform) {
  if (platform.missing) return `not available: ${platform.missing}`;
  const { ready, store, pull, shared } = platform;
  const sentences = [ready ? "Ready." : building(store)];
  if (pull.layers !== null && pull.size !== null) {
    const about = { estimate: "about ", lower_bound: "at least about " }[pull.accuracy] ?? "";
    sentences.push(`A pull downloads ${about}${size(pull.size)} in ${count(pull.layers, "layer")}.`);
  } else sentences.push("What a pull downloads is not known before it is built.");
  if (shared?.layers) sentences.push(`You have ${size(shared.size ?? 0)} in ${count(shared.layers, "layer")} of it already.`);
  else if (shared) sentences.push("You have no layer of it yet.");
  return sentences.join(" ");
}

function building(store) {
  if (!store?.known) return "To be built; what that takes is not known.";
  if (store.unavailable.length) return `A pull would fail: Nix cannot get ${store.unavailable[0]}.`;
  if (store.all_valid) return "To be packed: everything it needs is here.";
  const { fetched, built } = store;
  const parts = [];
  if (fetched.paths) {
    const bytes = fetched.download_size === null ? "" : ` (${size(fetched.download_size)})`;
    parts.push(`${count(fetched.paths, "path")}${bytes} from binary caches`);
  }
  if (built.derivations) parts.push(`${count(built.derivations, "derivation")} built here`);
  const unreachable = store.unreachable.length ? ` ${store.unreachable[0]} does not answer.` : "";
  return `To be built: ${parts.join(", ")}.${unreachable}`;
}

document.getElementById("price-having").hidden = false;
having.addEventListener("input", () => {
  clearTimeout(timer);
  asking?.abort();
  timer = setTimeout(() => image && estimatePrice(), QUIET);
});

// The page came with the image.
showPrice(document.getElementById("price").dataset.image || null);
