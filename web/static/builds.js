// The list of builds, live.

import { duration, element, notes, relative } from "./text.js";

const body = document.querySelector("#builds tbody");
const empty = document.getElementById("no-builds");
const live = document.getElementById("live");

const { images } = document.getElementById("builds").dataset;

const rows = new Map();
for (const row of body.rows) rows.set(row.dataset.build, row);

function filled(build) {
  const running = build.ended === null;
  const link = element("a", { href: `/builds/${encodeURIComponent(build.id)}` },
    element("bdi", {}, `${build.image}:${build.tag}`));
  const name = element("td", { class: "wrap" }, link);
  if (images && build.state === "succeeded") {
    const label = `${build.image}:${build.tag}`;
    name.append(" ", element("a", {
      class: "small", "data-image": "", href: images + encodeURI(label), "aria-label": `Image ${label}`,
    }, "image"));
  }
  name.append(" ", ...notes(build));
  const row = element("tr", { "data-build": build.id, "data-state": build.state },
    element("td", {}, element("span", { class: "badge", "data-state": build.state }, build.state)),
    name,
    element("td", { class: "quiet roomy" }, running ? build.doing : build.problem?.title ?? build.system),
    element("td", { class: "number" }, duration(build.elapsed)),
    element("td", { class: "quiet roomy" }, element("time", { datetime: build.begun })));
  relative(row.querySelector("time"));
  if (running) row.seen = { elapsed: build.elapsed, at: performance.now() };
  return row;
}

// Those that run stand first, the youngest of each kind before the others.
function put(build) {
  const old = rows.get(build.id);
  const row = filled(build);
  rows.set(build.id, row);
  if (old && old.dataset.state === build.state) {
    const focused = old.contains(document.activeElement);
    old.replaceWith(row);
    if (focused) row.querySelector("a").focus();
    return;
  }
  old?.remove();
  const first = build.ended === null
    ? body.firstElementChild
    : [...body.rows].find((each) => !["running", "queued"].includes(each.dataset.state));
  body.insertBefore(row, first ?? null);
}

// The live list is whole: links to its parts serve browsers without scripts.
document.getElementById("builds-parts")?.remove();

const events = new EventSource("/builds/events");

events.addEventListener("builds", (event) => {
  const { builds } = JSON.parse(event.data);
  rows.clear();
  const fresh = builds.map((build) => {
    const row = filled(build);
    rows.set(build.id, row);
    return row;
  });
  body.replaceChildren(...fresh);
  empty.hidden = rows.size > 0;
});

// A long list comes in parts.
events.addEventListener("more", (event) => {
  for (const build of JSON.parse(event.data).builds) {
    const row = filled(build);
    rows.set(build.id, row);
    body.append(row);
  }
});

events.addEventListener("build", (event) => {
  put(JSON.parse(event.data));
  empty.hidden = true;
});

events.addEventListener("removed", (event) => {
  const { id } = JSON.parse(event.data);
  rows.get(id)?.remove();
  rows.delete(id);
  empty.hidden = rows.size > 0;
});

events.addEventListener("open", () => { live.textContent = "This list is live."; });
events.addEventListener("error", () => { live.textContent = "The connection is lost; trying again …"; });

// A page that is left keeps no connection: browsers allow six to a host.
addEventListener("pagehide", () => events.close());

setInterval(() => {
  for (const row of body.rows) {
    if (!row.seen) continue;
    row.cells[3].textContent = duration(row.seen.elapsed + (performance.now() - row.seen.at) / 1000);
  }
}, 1000);
