// The log of a build that runs: lines are added to the fold of the derivation that has printed them.

import { duration, element, shown, stopwatch } from "./text.js";

const LINES = 5000; // of the log are on the page at most

const log = document.getElementById("log");
const isLast = "last" in log.dataset; // else the page shows an earlier part, and stays as it is
const started = Number(log.dataset.started);
const folds = new Map(); // by the number of the derivation; 0: lines of none
const queue = []; // the lines on the page, the oldest first
let next = Number(log.dataset.after); // the number of the line that is expected

for (const details of log.querySelectorAll(".fold")) {
  folds.set(Number(details.dataset.derivation), { details, lines: details.querySelector("pre") });
}
queue.push(...[...log.querySelectorAll(".line")].sort((one, other) => number(one) - number(other)));
for (const { lines } of folds.values()) lines.scrollTop = lines.scrollHeight;
open();
addEventListener("hashchange", open);

function number(line) {
  return Number(line.id.slice(1));
}

// Opens the fold of the line that the address names.
function open() {
  const line = /^#L\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
  if (!line) return;
  line.closest("details").open = true;
  line.scrollIntoView({ block: "center" });
}

export function after() {
  return next;
}

export function add({ first, lines, seconds, origins, derivations }) {
  showDerivations(derivations);
  const skipped = Math.max(next - first, 0);
  if (skipped >= lines.length) return;
  const missing = first > next;
  next = first + lines.length;
  const end = document.getElementById("log-end");
  if (end) end.textContent = `Last lines, ${next} now`;
  document.getElementById("log-text").hidden = false;
  if (!isLast) return;
  const added = new Map();
  for (let index = skipped; index < lines.length; index += 1) {
    const fold = folds.get(origins[index]) ?? make(origins[index], derivations);
    if (!added.has(fold)) {
      added.set(fold, { nodes: [], atEnd: fold.lines.scrollHeight - fold.lines.scrollTop - fold.lines.clientHeight < 40 });
    }
    if (missing && index === 0) added.get(fold).nodes.push(document.createTextNode("[lines left out: all of them are in the text]\n"));
    const line = makeLine(first + index + 1, seconds[index], lines[index]);
    added.get(fold).nodes.push(line);
    queue.push(line);
  }
  for (const [fold, { nodes, atEnd }] of added) {
    fold.lines.append(...nodes);
    if (atEnd) fold.lines.scrollTop = fold.lines.scrollHeight;
  }
  for (const line of queue.splice(0, Math.max(queue.length - LINES, 0))) line.remove();
  document.getElementById("log-count").textContent = `Lines ${number(queue[0])} to ${next} of ${next}`;
}

function makeLine(count, seconds, text) {
  const page = Math.floor((count - 1) / 1000) * 1000;
  const exact = new Date((started + seconds) * 1000).toISOString().slice(0, 19).replace("T", " ");
  return element("span", { id: `L${count}`, class: "line" },
    element("a", { href: `?after=${page}#L${count}` }, String(count)),
    element("time", { title: `${exact} UTC` }, stopwatch(seconds)),
    `${text}\n`);
}

function make(origin, derivations) {
  const derivation = derivations.find((each) => each.number === origin);
  const lines = element("pre", { dir: "ltr", tabindex: "0", role: "group", "aria-label": `Log of ${derivation?.name ?? "the build"}` });
  const details = element("details", { class: "fold", "data-derivation": origin, open: true },
    element("summary", {}, "Other lines"), lines);
  if (derivation) {
    const text = `${location.pathname}/log?derivation=${origin}`;
    lines.before(element("p", { class: "small wrap" }, element("code", {}, derivation.path), " · ", element("a", { href: text }, "its log as text")));
  }
  const fold = { details, lines };
  folds.set(origin, fold);
  log.append(details);
  if (derivation) summarize(fold, derivation);
  return fold;
}

function summarize({ details }, derivation) {
  details.dataset.state = derivation.state;
  const took = derivation.ended === null ? "" : `${duration(derivation.ended - derivation.begun)}, `;
  details.querySelector("summary").replaceChildren(
    element("bdi", {}, derivation.name), " ",
    element("span", { class: "badge", "data-state": derivation.state }, derivation.state), " ",
    element("span", { class: "quiet small" }, shown(`${took}${derivation.lines} ${derivation.lines === 1 ? "line" : "lines"}`)));
}

export function showDerivations(derivations) {
  for (const derivation of derivations) {
    const fold = folds.get(derivation.number);
    if (fold) summarize(fold, derivation);
  }
}

// What failed comes first, and what did not is folded.
export function finishLog() {
  const failed = [...folds.values()].filter(({ details }) => details.dataset.state === "failed");
  if (!failed.length) return;
  for (const { details } of folds.values()) details.open = details.dataset.state === "failed";
  log.prepend(...failed.map(({ details }) => details));
}
