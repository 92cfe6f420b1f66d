// The closure of an image as a graph to walk through.  The server has found a place for each
// path; here it is drawn, moved, searched, and asked why a path is there.  Everything the
// picture tells is also said in text beside it, and can be reached without a pointer.

import "./layers.js";
import { announce, element, shown, size } from "./text.js";

const graph = document.getElementById("graph");
const view = document.getElementById("graph-view");
const canvas = document.getElementById("graph-canvas");
const facts = document.getElementById("graph-facts");
const problem = document.getElementById("graph-problem");
const MOST_LINES = 4000; // With more, only the lines of the shortest chains are drawn.
const MOST_NAMED = 60; // Paths named in a list of references.
const MOST_LABELS = 150;

let data; // as it came, and what is derived from it:
let names; // without the hash
let referrers;
let place = { scale: 1, x: 0, y: 0 };
let hovered = -1;
let focused = -1;
let chosen = -1;
let marked = null; // the paths that a search or a layer has found; null: no search
let drawing = false;

open();
openTarget();
window.addEventListener("hashchange", openTarget);

// Who follows a link to a layer wants to see what is in it.
function openTarget() {
  const target = location.hash.startsWith("#layer-") && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

async function open() {
  if (!graph) return;
  try {
    const answer = await fetch(graph.dataset.source, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(`the registry answered ${answer.status}`);
    data = await answer.json();
  } catch (error) {
    problem.textContent = shown(`The graph could not be loaded: ${error.message}. The picture below shows it as well.`);
    problem.hidden = false;
    return;
  }
  names = data.path.map((path) => path.slice(path.lastIndexOf("/") + 34));
  referrers = data.path.map(() => []);
  data.references.forEach((targets, from) => targets.forEach((to) => referrers[to].push(from)));
  graph.hidden = false;
  graph.dataset.paths = data.path.length;
  fillLists();
  listen();
  fit();
  const asked = document.getElementById("why-q");
  if (asked && asked.value.trim()) search(asked.value, true);
  graph.dataset.ready = "true";
}

function fillLists() {
  const layers = document.getElementById("graph-layer");
  data.layers.forEach(([title], index) => {
    layers.append(element("option", { value: index }, `${index + 1}. ${title}`));
  });
  const list = document.getElementById("graph-names");
  const largest = names.map((_, n) => n).sort((a, b) => data.size[b] - data.size[a]).slice(0, 500);
  for (const name of new Set(largest.map((n) => names[n]))) list.append(element("option", { value: name }));
}

// -- drawing

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return { path: of("--bar-1"), asked: of("--bar-2"), line: of("--line"), text: of("--text"), focus: of("--focus"), ground: of("--surface") };
}

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    paint();
  });
}

function paint() {
  const ratio = window.devicePixelRatio || 1;
  const width = view.clientWidth;
  const height = view.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  const c = colours();
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.setTransform(ratio * place.scale, 0, 0, ratio * place.scale, ratio * place.x, ratio * place.y);
  const centre = chosen >= 0 ? chosen : hovered >= 0 ? hovered : focused;
  const chain = centre >= 0 ? chainTo(centre) : [];
  const near = new Set(chain);
  if (centre >= 0) for (const each of [...data.references[centre], ...referrers[centre]]) near.add(each);
  lines(pen, c, centre >= 0 || marked !== null ? 0.25 : 0.8);
  if (centre >= 0) {
    segment(pen, data.references[centre].map((to) => [centre, to]), c.path, 1.2);
    segment(pen, referrers[centre].map((from) => [from, centre]), c.asked, 1.2);
    segment(pen, chain.slice(1).map((to, index) => [chain[index], to]), c.focus, 3);
  }
  const asked = new Set(data.requested);
  for (let n = 0; n < names.length; n += 1) {
    const bright = marked !== null ? marked.has(n) || n === centre : centre < 0 || near.has(n);
    pen.globalAlpha = bright ? 1 : 0.25;
    pen.fillStyle = asked.has(n) ? c.asked : c.path;
    pen.beginPath();
    pen.arc(data.x[n], data.y[n], data.radius[n], 0, 7);
    pen.fill();
    if (n === chosen || n === hovered || n === focused || (marked !== null && bright)) {
      pen.lineWidth = 2.5 / place.scale;
      pen.strokeStyle = n === chosen || n === focused ? c.focus : c.text;
      pen.stroke();
    }
  }
  pen.globalAlpha = 1;
  labels(pen, c, new Set([...chain, focused, hovered]));
}

function lines(pen, c, strength) {
  const total = data.references.reduce((sum, each) => sum + each.length, 0);
  pen.globalAlpha = strength;
  const pairs = [];
  if (total <= MOST_LINES) data.references.forEach((targets, from) => targets.forEach((to) => pairs.push([from, to])));
  else data.way.forEach((from, to) => { if (from >= 0) pairs.push([from, to]); });
  segment(pen, pairs, c.line, 0.8);
  pen.globalAlpha = 1;
}

function segment(pen, pairs, colour, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width / Math.min(1, place.scale);
  pen.beginPath();
  for (const [from, to] of pairs) {
    pen.moveTo(data.x[from], data.y[from]);
    pen.lineTo(data.x[to], data.y[to]);
  }
  pen.stroke();
}

// Names of what is large enough on the screen, and of what is looked at.
function labels(pen, c, always) {
  const font = 12 / place.scale;
  pen.font = `${font}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.lineWidth = 3 / place.scale;
  pen.strokeStyle = c.ground;
  pen.fillStyle = c.text;
  // One that would lie over another is left out; what is looked at comes first, then what is large.
  const large = [...names.keys()].filter((n) => !always.has(n) && data.radius[n] * place.scale >= 16);
  large.sort((a, b) => data.radius[b] - data.radius[a]);
  const written = [];
  for (const n of [...always].reverse().concat(large)) {
    if (n < 0) continue;
    if (written.length >= MOST_LABELS) break;
    const y = data.y[n] + data.radius[n] + font;
    const half = pen.measureText(shown(names[n])).width / 2 + font / 2;
    const free = written.every(([at, middle, reach]) => Math.abs(at - y) > font || Math.abs(middle - data.x[n]) > half + reach);
    if (!free) continue;
    written.push([y, data.x[n], half]);
    pen.strokeText(shown(names[n]), data.x[n], y);
    pen.fillText(shown(names[n]), data.x[n], y);
  }
}

// -- moving

function fit() {
  const scale = Math.min(view.clientWidth / data.width, view.clientHeight / data.height) || 1;
  place = { scale, x: (view.clientWidth - data.width * scale) / 2, y: (view.clientHeight - data.height * scale) / 2 };
  draw();
}

function zoom(factor, x = view.clientWidth / 2, y = view.clientHeight / 2) {
  const scale = Math.min(12, Math.max(0.05, place.scale * factor));
  const by = scale / place.scale;
  place = { scale, x: x - (x - place.x) * by, y: y - (y - place.y) * by };
  draw();
}

// Bring a path into view, if it is not.
function show(n) {
  const x = data.x[n] * place.scale + place.x;
  const y = data.y[n] * place.scale + place.y;
  const margin = 30;
  if (x < margin || x > view.clientWidth - margin) place.x += view.clientWidth / 2 - x;
  if (y < margin || y > view.clientHeight - margin) place.y += view.clientHeight / 2 - y;
}

function at(event) {
  const box = view.getBoundingClientRect();
  const x = (event.clientX - box.left - place.x) / place.scale;
  const y = (event.clientY - box.top - place.y) / place.scale;
  const reach = 4 / place.scale;
  let found = -1;
  let nearest = Infinity;
  for (let n = 0; n < names.length; n += 1) {
    const away = Math.hypot(data.x[n] - x, data.y[n] - y) - data.radius[n];
    if (away < reach && away < nearest) [found, nearest] = [n, away];
  }
  return found;
}

// -- asking

function chainTo(n) {
  const chain = [n];
  while (data.way[chain[0]] >= 0) chain.unshift(data.way[chain[0]]);
  return chain;
}

function choose(n) {
  chosen = n;
  focused = n;
  describe(n);
  if (n >= 0) {
    show(n);
    view.dataset.chosen = data.path[n];
    const steps = chainTo(n).map((each) => names[each]);
    announce(`${names[n]}, ${size(data.size[n])}. ${steps.length > 1 ? `There because of ${steps.join(", then ")}` : "It was requested"}.`);
  } else {
    delete view.dataset.chosen;
  }
  draw();
}

function describe(n) {
  if (n < 0) {
    facts.replaceChildren(element("p", { class: "quiet" }, "Choose a path."));
    return;
  }
  const [title, reason] = data.layers[data.layer[n]] ?? ["none", ""];
  const rows = [
    ["Path", data.path[n]],
    ["Size", size(data.size[n])],
    ["With dependencies", size(data.closure[n])],
    ["Layer", `${data.layer[n] + 1}. ${title}: ${reason}`],
  ];
  if (data.popularity[n] > 1) rows.push(["Needed by", `${data.popularity[n]} of the package set`]);
  facts.replaceChildren(
    element("h3", { id: "graph-chosen" }, names[n]),
    element("dl", {}, ...rows.flatMap(([term, text]) => [element("dt", { class: "quiet" }, term), element("dd", {}, text)])),
    ...list("Why it is there", chainTo(n), "ol", "graph-chain"),
    ...list("Refers to", data.references[n], "ul", "graph-references"),
    ...list("Referred to by", referrers[n], "ul", "graph-referrers"),
  );
}

function list(title, numbers, kind, id) {
  if (numbers.length === 0) return [];
  const items = numbers.slice(0, MOST_NAMED).map((n) => {
    const button = element("button", { type: "button", class: "plain", title: data.path[n] }, names[n]);
    button.addEventListener("click", () => { choose(n); document.getElementById("graph-chosen").scrollIntoView({ block: "nearest" }); });
    return element("li", {}, button);
  });
  if (numbers.length > MOST_NAMED) items.push(element("li", {}, `and ${numbers.length - MOST_NAMED} more`));
  return [element("h4", {}, `${title} (${numbers.length})`), element(kind, { id }, ...items)];
}

function search(text, go) {
  const wanted = text.trim().toLowerCase();
  document.getElementById("graph-layer").value = "";
  marked = null;
  if (wanted) {
    marked = new Set();
    const path = wanted.replace(/^\/nix\/store\//, "");
    names.forEach((name, n) => {
      // Shorter parts of a hash would be found by chance.
      if (name.toLowerCase().includes(wanted) || (path.length >= 6 && data.path[n].slice(11).toLowerCase().startsWith(path))) marked.add(n);
    });
  }
  graph.dataset.marked = marked === null ? "" : marked.size;
  if (go && marked !== null) {
    const rank = (n) => {
      const name = names[n].toLowerCase();
      return (name === wanted ? 0 : name.startsWith(wanted) ? 1 : 2) * 1000 + names[n].length;
    };
    const best = [...marked].sort((a, b) => rank(a) - rank(b) || a - b)[0];
    if (best === undefined) announce("Nothing in this image is called that");
    else choose(best);
  }
  draw();
}

// -- hands and keys

function listen() {
  const q = document.getElementById("graph-q");
  q.addEventListener("input", () => search(q.value, false));
  q.addEventListener("keydown", (event) => { if (event.key === "Enter") search(q.value, true); });
  document.getElementById("graph-layer").addEventListener("change", (event) => {
    const layer = event.target.value;
    marked = layer === "" ? null : new Set([...names.keys()].filter((n) => data.layer[n] === Number(layer)));
    graph.dataset.marked = marked === null ? "" : marked.size;
    draw();
  });
  document.getElementById("graph-in").addEventListener("click", () => zoom(1.4));
  document.getElementById("graph-out").addEventListener("click", () => zoom(1 / 1.4));
  document.getElementById("graph-fit").addEventListener("click", fit);
  new ResizeObserver(draw).observe(view);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  view.addEventListener("focus", () => { if (focused < 0) { focused = data.requested[0] ?? 0; draw(); } });
  view.addEventListener("keydown", key);
  pointer();
  view.addEventListener("wheel", (event) => {
    // Without Ctrl the wheel belongs to the page.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = view.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
}

function pointer() {
  const down = new Map(); // the fingers, and where they are
  let moved = 0;
  view.addEventListener("pointerdown", (event) => {
    view.setPointerCapture(event.pointerId);
    down.set(event.pointerId, [event.clientX, event.clientY]);
    if (down.size === 1) moved = 0;
  });
  view.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId);
    if (!before) {
      const n = at(event);
      if (n !== hovered) {
        hovered = n;
        view.title = n < 0 ? "" : shown(`${names[n]}\n${size(data.size[n])}, ${size(data.closure[n])} with dependencies\nrefers to ${data.references[n].length}, referred to by ${referrers[n].length}`);
        draw();
      }
      return;
    }
    const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
    moved += Math.abs(dx) + Math.abs(dy);
    if (down.size === 2) {
      const [other] = [...down].filter(([id]) => id !== event.pointerId).map(([, each]) => each);
      const was = Math.hypot(before[0] - other[0], before[1] - other[1]);
      const is = Math.hypot(event.clientX - other[0], event.clientY - other[1]);
      const box = view.getBoundingClientRect();
      if (was > 0) zoom(is / was, other[0] - box.left, other[1] - box.top);
    } else {
      place.x += dx;
      place.y += dy;
    }
    down.set(event.pointerId, [event.clientX, event.clientY]);
    draw();
  });
  const up = (event) => {
    const was = down.delete(event.pointerId);
    if (was && event.type === "pointerup" && moved < 6) choose(at(event));
  };
  view.addEventListener("pointerup", up);
  view.addEventListener("pointercancel", up);
  view.addEventListener("pointerleave", () => { hovered = -1; draw(); });
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const from = focused >= 0 ? focused : data.requested[0] ?? 0;
  const beside = (step) => {
    const row = [...names.keys()].filter((n) => data.depth[n] === data.depth[from]).sort((a, b) => data.x[a] - data.x[b] || data.y[a] - data.y[b]);
    return row[(row.indexOf(from) + step + row.length) % row.length];
  };
  const moves = {
    ArrowDown: () => data.references[from][0] ?? from,
    ArrowUp: () => (data.way[from] >= 0 ? data.way[from] : from),
    ArrowLeft: () => beside(-1),
    ArrowRight: () => beside(1),
    Home: () => data.requested[0] ?? 0,
  };
  if (moves[event.key]) {
    focused = moves[event.key]();
    chosen = -1;
    show(focused);
    describe(focused);
    announce(`${names[focused]}, ${size(data.size[focused])}, refers to ${data.references[focused].length}`);
  } else if (event.key === "Enter" || event.key === " ") choose(from);
  else if (event.key === "Escape") { marked = null; choose(-1); }
  else if (event.key === "+" || event.key === "=") zoom(1.4);
  else if (event.key === "-") zoom(1 / 1.4);
  else if (event.key === "0") fit();
  else return;
  event.preventDefault();
  draw();
}
