// One build, live: its state, how far it is, and its log as it comes.

import { add, after, finishLog, showDerivations } from "./log.js";
import { duration, element, notes, shown, size } from "./text.js";

const page = document.getElementById("build");
const by = (id) => document.getElementById(id);

let clock = null; // what the elapsed time is counted on from

function show(build) {
  const ended = build.ended !== null;
  page.dataset.state = build.state;
  by("state").replaceChildren(element("span", { class: "badge", "data-state": build.state }, build.state));
  const doing = ended ? "" : shown(build.doing);
  if (by("doing").textContent !== doing) by("doing").textContent = doing;
  by("notes").replaceChildren(...notes(build));
  clock = ended ? null : { build, at: performance.now() };
  by("elapsed").textContent = duration(build.elapsed);
  by("digest").textContent = build.digest ?? "";
  for (const id of ["digest-title", "digest"]) by(id).hidden = !build.digest;
  running(build, build.elapsed);
  by("progress").hidden = ended;
  for (const id of ["follows-title", "follows"]) by(id).hidden = !build.follows;
  by("follows").replaceChildren(...(build.follows
    ? [element("a", { href: `/builds/${encodeURIComponent(build.follows)}` }, "the build of an index with the same image")]
    : []));
  counts(build.counts);
  lanes(build);
  showDerivations(build.derivations);
  by("result").hidden = build.state !== "succeeded";
  by("problem").hidden = build.problem === null;
  if (build.problem) {
    by("problem-title").replaceChildren(element("bdi", {}, build.problem.title ?? "What went wrong"));
    by("problem-text").replaceChildren(...problem(build.problem));
  }
  if (ended) finish();
}

// The derivations that are being built, and for how long.
function running(build, elapsed) {
  const now = Date.parse(build.begun) / 1000 + elapsed;
  by("running").replaceChildren(...build.running.map((each) => element("li", { class: "wrap" },
    each.platform ? `${each.platform}, ` : null,
    element("strong", {}, element("bdi", {}, each.package)), " for ",
    element("span", { class: "since" }, duration(Math.max(now - Date.parse(each.begun) / 1000, 0))),
    each.phase ? ", " : null, each.phase ? element("bdi", {}, each.phase) : null, " ",
    element("code", { class: "small quiet" }, each.derivation))));
}

function counts(all) {
  for (const count of all) {
    if (!count.expected || (count.expected === 1 && count.unit === "builds")) continue;
    const platform = count.platform ?? ""; // of an index
    const id = `live-${platform}-${count.phase}-${count.unit}`;
    const phase = platform ? `${platform}, ${count.phase}` : count.phase;
    const bytes = count.unit === "bytes";
    const text = bytes
      ? `${phase}: ${size(count.done)} of ${size(count.expected)}`
      : `${phase}: ${count.done} of ${count.expected} ${count.unit}`;
    let made = by(id);
    if (!made) {
      // What the server made of it has another id.
      for (const old of by("counts").children) {
        if (old.dataset.phase === count.phase && old.dataset.unit === count.unit && old.dataset.platform === platform) old.remove();
      }
      made = element("progress", { id });
      by("counts").append(element("div", { class: "count", "data-phase": count.phase, "data-unit": count.unit, "data-platform": platform },
        element("label", { for: id }), made));
    }
    made.max = count.expected;
    made.value = Math.min(count.done, count.expected);
    made.previousElementSibling.textContent = shown(text);
  }
}

function lanes(build) {
  by("timeline").hidden = build.stages.length === 0;
  if (!build.stages.length) return;
  const time = (text) => Date.parse(text) / 1000;
  const first = time(build.stages[0].begun);
  const last = Math.max(time(build.begun) + build.elapsed, ...build.stages.map((stage) => time(stage.ended ?? stage.begun)));
  const scale = 1000 / Math.max(last - first, 0.001);
  by("lanes").replaceChildren(...build.stages.map((stage) => {
    const begun = time(stage.begun);
    const seconds = Math.max((stage.ended ? time(stage.ended) : last) - begun, 0);
    const width = Math.min(Math.max(Math.round(seconds * scale), 3), 1000);
    const x = Math.min(Math.max(Math.round((begun - first) * scale), 0), 1000 - width);
    return element("tr", { "data-phase": stage.phase },
      element("th", { scope: "row" }, stage.platform ? `${stage.platform}, ${stage.phase}` : stage.phase),
      element("td", { class: "number" }, duration(seconds)),
      element("td", { class: "lane" },
        element("svg:svg", { viewBox: "0 0 1000 20", preserveAspectRatio: "none", "aria-hidden": "true" },
          element("svg:rect", { class: `phase-${stage.phase}`, x, y: 2, width, height: 16 }))));
  }));
}

function problem(found) {
  // The rest of the message is the log.
  const message = found.log.length ? found.message.split("\n")[0].replace(/ The last lines of its log:$/, "") : found.message;
  const parts = [];
  if (found.advice) {
    const more = "docs" in page.dataset ? element("a", { href: `/docs/troubleshooting/#${found.topic}` }, "More about this error") : null;
    parts.push(element("p", { class: "advice" }, found.advice, more && " ", more));
  }
  const { retry_at: again } = found;
  parts.push(element("p", { class: "retry" }, ...(again && Date.parse(again) > Date.now()
    ? ["The first pull after ", element("time", { "data-exact": true, datetime: again }, `${again.slice(5, 19).replace("T", " ")} UTC`), " tries again."]
    : ["The next pull tries again."])));
  parts.push(element("p", { class: "error-message" }, message));
  if (found.derivation && !found.message.includes(found.derivation)) {
    parts.push(element("p", { class: "small wrap" }, "Failed: ", element("code", {}, found.derivation)));
  }
  if (found.log.length) {
    parts.push(element("details", { open: true },
      element("summary", {}, `The last ${found.log.length} lines of its log`),
      element("pre", { dir: "ltr", tabindex: "0" }, `${found.log.join("\n")}\n`)));
  }
  return parts;
}

// -- the stream

const events = new EventSource(`/builds/${encodeURIComponent(page.dataset.build)}/events?after=${after()}`);
const note = by("connection");
let over = false;

events.addEventListener("build", (event) => show(JSON.parse(event.data)));
events.addEventListener("log", (event) => add(JSON.parse(event.data)));
events.addEventListener("open", () => { note.hidden = true; });
events.addEventListener("error", () => {
  if (over) return;
  note.textContent = events.readyState === EventSource.CLOSED
    ? "This build is not told of any more."
    : "The connection is lost; trying again …";
  note.hidden = false;
});

function finish() {
  finishLog();
  over = true;
  note.hidden = true;
  events.close();
}

addEventListener("pagehide", () => events.close());

setInterval(() => {
  if (!clock) return;
  const elapsed = clock.build.elapsed + (performance.now() - clock.at) / 1000;
  by("elapsed").textContent = duration(elapsed);
  lanes({ ...clock.build, elapsed });
  running(clock.build, elapsed);
}, 1000);
